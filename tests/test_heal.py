"""Accuracy kept from inputs alone: rows of layers, least squares, the order of removal, shares, and the whole on a trained network."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgeon
from surgeon.budget.align import Grid
from surgeon.budget.share import share_out
from surgeon.errors import BadInput
from surgeon.heal.consumers import consumers_of
from surgeon.heal.curves import Bench, curve, marks_of
from surgeon.heal.examples import Examples
from surgeon.heal.layers import Layer, out_rows
from surgeon.heal.refit import Healed
from surgeon.heal.refit import refit as fitted
from surgeon.heal.removal import removal
from surgeon.heal.ridge import Moments, fit
from surgeon.heal.spool import Spool
from surgeon.heal.watch import Watch
from surgeon.pipeline.replay import apply_checked
from surgeon.score.batches import Batches

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models.digits import accuracy, data, digits_resnet

torch.set_num_threads(1)


def refit(net: nn.Module, result: surgeon.Result, x: Tensor) -> Healed:
    with Spool() as spool:
        examples = Examples(Batches([x]), spool, net, result.model)
        return fitted(net, result.model, result.plan, examples, spool)


def layers(net: nn.Module, x: Tensor) -> list[tuple[Layer, Tensor]]:
    found: list[tuple[Layer, Tensor]] = []
    with torch.no_grad(), Watch(net, after=lambda _n, layer, out: found.append((layer, out))):
        net(x)
    return found


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(3, 5, 3, 2, 1), (2, 3, 9, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6)),
    "dilated": (nn.Conv2d(2, 3, (3, 2), dilation=2), (2, 2, 8, 8)),
    "conv1d": (nn.Conv1d(3, 4, 3, 2), (2, 3, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 3, 3)),
    "linear": (nn.Linear(6, 4), (5, 6)),
    "tokens": (nn.Linear(6, 4, bias=False), (2, 5, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_of_data_times_the_matrix_are_rows_of_the_result(name: str) -> None:
    net, shape = CASES[name]
    [(layer, out)] = layers(net, torch.randn(shape))
    rows = out.numel() // out.shape[1 if layer.conv else -1]
    at = torch.randperm(rows)
    made = (layer.data(at).transpose(0, 1) @ layer.matrix.mT).transpose(0, 1).flatten(1)
    made = made if layer.bias is None else made + layer.bias
    assert torch.allclose(made, out_rows(out, at, bool(layer.conv)), atol=1e-5)
    before = net.weight.detach().clone()  # type: ignore[union-attr]
    with torch.no_grad():
        layer.put(layer.matrix * 2)
    assert torch.allclose(net.weight, before * 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(6, 1), (1, 4), (1, 1), (6, 4)])
@pytest.mark.parametrize("turned", [True, False])
def test_which_dimension_makes_outputs_of_one_row_or_column_too(
    sizes: tuple[int, int], turned: bool
) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(sizes[::-1] if turned else sizes))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight.t() if turned else self.weight)

    [(layer, out)] = layers(Product(), torch.randn(5, sizes[0]))
    assert out.shape[1] == sizes[1]
    if sizes != (1, 1):
        assert (layer.out_dim, layer.in_dim) == ((0, 1) if turned else (1, 0))


def test_one_output_is_fitted() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(128, 3)
    done = surgeon.shrink(net, x[:2], ratio=0.5, data=[x], measure=False)
    assert done.recovery is not None and done.recovery.fitted < done.recovery.cut


def test_fit_finds_the_weights_that_made_the_targets() -> None:
    torch.manual_seed(0)
    x, w, shift = torch.randn(500, 2, 6), torch.randn(2, 3, 6), torch.randn(2, 3)
    y = torch.einsum("ngi,goi->ngo", x, w) + shift
    seen, held = Moments(), Moments()
    for part in (slice(0, 250), slice(250, 400)):
        seen.add(x[part], y[part])
    held.add(x[400:], y[400:])
    found = fit(seen, held, torch.zeros(2, 3, 6), free=True)
    assert found is not None
    assert torch.allclose(found.weight, w.double(), atol=1e-3)
    assert torch.allclose(found.shift, shift.double(), atol=1e-3)
    assert found.after < 1e-6 < found.before
    assert fit(seen, held, w, free=True) is None or found.before > 0.5
    assert fit(held, held, found.weight, free=False) is not None  # the shift is missing


def test_weights_that_fit_already_stay() -> None:
    x, w = torch.randn(400, 1, 5), torch.randn(1, 2, 5)
    seen, held = Moments(), Moments()
    seen.add(x[:300], torch.einsum("ngi,goi->ngo", x[:300], w))
    held.add(x[300:], torch.einsum("ngi,goi->ngo", x[300:], w))
    assert fit(seen, held, w, free=True) is None


class Twins(nn.Module):
    """Channels 4 to 7 of the first layer are those of 0 to 3 again, twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)
        with torch.no_grad():
            self.first.weight[4:] = self.first.weight[:4] * 2
            self.first.bias[4:] = self.first.bias[:4] * 2  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def test_what_others_give_goes_first_and_is_given_by_them() -> None:
    torch.manual_seed(0)
    net, x = Twins().eval(), torch.randn(32, 3, 8, 8)
    coupling = surgeon.trace(net, x[:2]).coupling
    group = coupling.group("first")
    with Spool() as spool:
        examples = Examples(Batches([x]), spool, net)
        consumers = consumers_of(net, [group], examples)
        found = removal(group, consumers, (4,), np.zeros(8))
        assert {c % 4 for c in found.order[:4].tolist()} == {0, 1, 2, 3}
        bench = Bench(net, examples, spool)
        state = {n: t.clone() for n, t in net.state_dict().items()}
        assert bench.loss(group, found.order[:4].tolist(), found.patches[4]) < 1e-4
        assert bench.loss(group, found.order[:4].tolist(), {}) > 0.05
        assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())
        points = curve(bench, group, removal(group, consumers, marks_of(8), np.zeros(8)))
    losses = [loss for _, loss in points]
    assert points[0] == (0, 0.0) and losses == sorted(losses) and losses[-1] > 0.1


def test_a_slim_network_gives_what_the_dense_one_gave() -> None:
    torch.manual_seed(0)
    net, x = Twins().eval(), torch.randn(64, 3, 8, 8)
    result = surgeon.shrink(net, x[:2], remove={"first": [4, 5, 6, 7]}, measure=False)
    other = torch.randn(16, 3, 8, 8)
    before = F.mse_loss(result.model(other), net(other))
    done = refit(net, result, x)
    assert [name for name, *_ in done.layers] == ["second.weight"]
    assert F.mse_loss(result.model(other), net(other)) < 1e-4 * before


def test_removal_in_blocks_loses_what_removal_one_by_one_loses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 160), nn.ReLU(), nn.Linear(160, 5))
    x = torch.randn(600, 6)
    group = surgeon.trace(net, x[:2]).coupling.group("0")
    with Spool() as spool:
        consumers = consumers_of(net, [group], Examples(Batches([x]), spool, net))
    [consumer] = consumers.values()
    lost = []
    for at_once in (10**9, 32):  # one by one, and several before all are looked at again
        monkeypatch.setattr("surgeon.heal.removal._AT_ONCE", at_once)
        found = removal(group, consumers, (60, 120), np.zeros(160))
        assert sorted(found.order.tolist()) == list(range(160))
        gone = [consumer.weight - found.patches[k][consumer.name][0] for k in (60, 120)]
        lost.append([float(((d @ consumer.data.covariance) * d).sum()) for d in gone])
        for count, patch in found.patches.items():
            assert not patch[consumer.name][0][:, found.order[:count].copy()].any()
    assert np.allclose(lost[0], lost[1], rtol=0.05)


class Sums(nn.Module):
    """A shortcut whose layer loses what the layer beside it could give."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x + self.norm(self.outer(self.inner(x).relu()))).relu().mean((2, 3)))


def test_a_sum_is_told_with_its_layer_and_scale() -> None:
    net, found = Sums().eval(), []
    with torch.no_grad():
        net.norm.weight.fill_(3.0)  # type: ignore[operator]
    with torch.no_grad(), Watch(net, summed=lambda told, _: found.append(told)) as watch:
        net(torch.randn(2, 3, 4, 4))
    [told] = found
    assert watch.uses[told.track.layer] == ("outer.weight", 0)
    assert told.track.mean == "norm.running_mean"
    assert torch.allclose(told.track.scale, torch.full((8,), 3.0), rtol=1e-3)


class _Unit:
    def __init__(self, name: str, size: int) -> None:
        group = type("G", (), {"name": name, "size": size})()
        self.groups, self.size, self.grid, self.weight, self.ratio = (group,), size, Grid(), 1, None


def test_shares_take_the_cheapest_steps_first() -> None:
    units = [_Unit("cheap", 32), _Unit("dear", 32), _Unit("own", 32)]
    curves = {
        "cheap": [(0, 0.0), (31, 0.1)],
        "dear": [(0, 0.0), (31, 10.0)],
        "own": [(0, 0.0), (31, 0.0)],
    }
    counts = share_out(
        units,
        curves,
        lambda c: -float(sum(c)),
        lambda c: sum(c) >= 44,
        [0, 0, 4],
        [False, False, True],  # type: ignore[arg-type]
    )
    assert counts[2] == 4
    assert counts[0] == 30
    assert 40 - 30 <= counts[1] <= 12


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    net = digits_resnet()
    path = Path(__file__).resolve().parent.parent / "models" / "digits_resnet.pth"
    net.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    x, _, other, labels = data()
    return net.eval(), x, other, labels


def test_accuracy_is_kept_without_labels(trained: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    net, x, *_ = trained
    batches = list(x[:256].split(64))
    plain = surgeon.shrink(net, x[:2], max_flops="0.12x", measure=False)
    kept = surgeon.shrink(net, x[:2], max_flops="0.12x", measure=False, data=batches)
    assert kept.check is not None and kept.recovery is not None
    assert kept.recovery.fitted < 0.5 * kept.recovery.cut
    dense, cut, healed = (accuracy(m) for m in (net, plain.model, kept.model))
    assert healed > cut + 10
    assert healed > dense - 10
    assert kept.plan.model["tuned"]["by"] == "least squares"


def test_parts_can_be_turned_off(trained: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    net, x, *_ = trained
    batches = list(x[:64].split(32))
    plain = surgeon.shrink(net, x[:2], 0.5, measure=False)
    none = surgeon.shrink(net, x[:2], 0.5, measure=False, data=batches, recover=())
    assert none.plan.keep == plain.plan.keep and none.recovery is None
    fitted = surgeon.shrink(net, x[:2], 0.5, measure=False, data=batches, recover=("compensate",))
    assert fitted.plan.keep == plain.plan.keep and fitted.recovery is not None
    with pytest.raises(BadInput, match="recover 'slect' does not exist"):
        surgeon.shrink(net, x[:2], 0.5, data=batches, recover=("slect",))
    with pytest.raises(BadInput, match="there are none"):
        surgeon.shrink(net, x[:2], 0.5, recover=("select",))


def test_a_replayed_plan_is_fitted_to_data(
    trained: tuple[nn.Module, Tensor, Tensor, Tensor],
) -> None:
    net, x, *_ = trained
    batches = list(x[:128].split(32))
    made = surgeon.shrink(net, x[:2], 0.4, measure=False, data=batches)
    plan = surgeon.Plan.from_json(made.plan.to_json())
    assert plan.request["data"] == {"recover": ["select", "allocate", "compensate"]}
    again = apply_checked(plan, net, x[:2], measure=False, data=batches)
    assert again.check is not None and again.recovery is not None
    assert again.recovery.fitted == pytest.approx(made.recovery.fitted, rel=1e-3)  # type: ignore[union-attr]
    assert again.plan.model["tuned"]["examples"] == 128
    for name, tensor in made.model.state_dict().items():
        assert torch.allclose(tensor, again.model.state_dict()[name], rtol=1e-3, atol=1e-4), name
    plain = apply_checked(plan, net, x[:2], measure=False)
    assert plain.recovery is None and "tuned" not in plain.plan.model
    assert any("a replay without data has them as cut" in note for note in plain.notes)
    assert not any("has them as cut" in note for note in again.notes)
    with pytest.raises(BadInput, match="the plan says what goes"):
        apply_checked(plan, net, x[:2], data=batches, recover=("select",))


def test_labels_give_the_accuracy(trained: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    net, x, other, labels = trained
    pairs = [(other[:100], labels[:100])]
    result = surgeon.shrink(net, x[:2], 0.3, measure=False, data=pairs, labelled=True)
    assert result.recovery is not None and result.recovery.accuracy is not None
    assert result.recovery.accuracy[0] == pytest.approx(
        float((net(other[:100]).argmax(1) == labels[:100]).float().mean())
    )


def test_the_callers_model_in_train_mode_is_not_touched(
    trained: tuple[nn.Module, Tensor, Tensor, Tensor],
) -> None:
    net, x, *_ = trained
    net.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    try:
        surgeon.shrink(net, x[:2], 0.3, measure=False, data=[x[:32]])
        assert net.training
        assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    finally:
        net.eval()


class Scaled(nn.Module):
    """Attention whose scale follows the width of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(12, 16) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.head((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)


def test_weights_that_took_a_scale_keep_it() -> None:
    torch.manual_seed(0)
    net, x = Scaled().eval(), torch.randn(32, 5, 12)
    result = surgeon.shrink(net, x[:2], remove={"q": list(range(8))}, measure=False)
    assert result.plan.folds
    done = refit(net, result, x)
    assert not {"q.weight", "k.weight"} & {name for name, *_ in done.layers}
