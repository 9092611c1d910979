"""Every criterion against a direct computation, on a network small enough to compute by hand."""

from functools import cache

import numpy as np
import pytest
import torch
from nets import NETS
from torch import Tensor, nn
from torch.nn import functional

import surgeon
from surgeon.errors import BadInput
from surgeon.pipeline.traced import Traced, trace
from surgeon.score import CRITERIA, Batches, Evidence, Material, Original, scores_of
from surgeon.score.activations import unexplained
from surgeon.score.reduce import NORMALISERS, REDUCTIONS, shares
from surgeon.score.statistics import Moments
from surgeon.trace.folding import read_state
from surgeon.trace.program import to_program

torch.set_num_threads(1)


class Small(nn.Module):
    """Two convolutions with a norm between, then a classifier on flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.wide, self.head = nn.Conv2d(6, 5, 3), nn.Linear(5 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.head(self.wide(x).relu().flatten(1))


@cache
def net() -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = Small().eval()
        for tensor in (small.norm.weight, small.norm.bias, small.norm.running_mean):
            tensor.data.normal_()
        small.norm.bias.data.abs_()  # no channel is dead
    return small


def batch(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


X = torch.cat([batch(1), batch(2, 3)])
Y = torch.tensor([0, 1, 2, 3, 0, 1, 1])
DATA = [(X[:4], Y[:4]), (X[4:], Y[4:])]


@cache
def traced() -> Traced:
    return trace(net(), batch(0))


def evidence(labelled: bool = True, loss=None, by: str = "group") -> Evidence:
    data = DATA if labelled else [x for x, _ in DATA]
    material = Material(Batches(data, labelled), loss)
    return Evidence(read_state(net()), by, 0, Original(net(), traced().coupling, material))


def scores(name, group: str = "conv", reduce: str = "mean", **how) -> np.ndarray:
    found, _ = scores_of(traced().groups, evidence(**how), name, reduce)
    return found[group]


def close(found: np.ndarray, expected) -> None:
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-4, atol=1e-7)


def taken() -> tuple[Tensor, Tensor]:
    """What the second convolution and the classifier take: [7, 6, 4, 4] and [7, 5, 2, 2]."""
    small = net()
    with torch.no_grad():
        first = small.norm(small.conv(X)).relu()
        return first, small.wide(first).relu()


W1, W2 = net().conv.weight.detach(), net().wide.weight.detach()


# --- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "p"), [("l1", 1), ("l2", 2), ("linf", float("inf"))])
def test_norms_are_those_of_the_weights_that_make_and_take_a_channel(name: str, p: float):
    made = torch.linalg.vector_norm(W1.flatten(1), p, 1)
    read = torch.linalg.vector_norm(W2.transpose(0, 1).flatten(1), p, 1)
    close(scores(name), (made + read) / 2)
    close(scores(name, reduce="sum"), made + read)
    close(scores(name, reduce="max"), torch.maximum(made, read))
    close(scores(name, reduce="first"), made)
    close(scores(name, by="filter"), made)
    close(scores(name, by="shared-kernel"), read)


def test_a_channel_that_a_layer_takes_at_several_positions_has_all_of_them():
    read = net().head.weight.detach().reshape(4, 5, 4).transpose(0, 1).flatten(1)
    close(scores("l2", "wide", by="shared-kernel"), read.norm(dim=1))
    close(scores("linf", "wide", by="shared-kernel"), read.abs().amax(1))


def test_the_scale_is_that_of_the_norm_and_where_there_is_none_nothing_is_said():
    close(scores("norm-scale"), net().norm.weight.detach().abs())
    found, _ = scores_of(traced().groups, evidence(), "norm-scale")
    assert "wide" not in found
    plan = surgeon.propose(net(), batch(0), 0.5, criterion="norm-scale").plan
    assert "the criterion says nothing of these channels" in {x.why for x in plan.left}


def test_lamp_is_a_squared_norm_over_those_that_are_not_smaller():
    squared = W1.flatten(1).square().sum(1).double()
    expected = [float(s / squared[squared >= s].sum()) for s in squared]
    close(scores("lamp", by="filter"), expected)


def test_fpgm_is_the_sum_of_distances():
    close(scores("fpgm", by="filter"), torch.cdist(W1.flatten(1), W1.flatten(1)).sum(1))
    read = net().head.weight.detach().reshape(4, 5, 4).transpose(0, 1).flatten(1)
    close(scores("fpgm", "wide", by="shared-kernel"), torch.cdist(read, read).sum(1))


def test_correlation_is_one_less_the_closest_cosine():
    unit = functional.normalize(W1.flatten(1).double(), dim=1)
    cosine = (unit @ unit.T).abs().fill_diagonal_(0)
    close(scores("correlation", by="filter"), 1 - cosine.amax(1))


def test_a_copy_of_a_filter_is_redundant():
    small = Small().eval()
    with torch.no_grad():
        small.conv.weight[4] = -2 * small.conv.weight[1]
    found = trace(small, batch(0))
    own = Evidence(read_state(small), "filter")
    table, _ = scores_of(found.groups, own, "correlation")
    assert sorted(np.argsort(table["conv"])[:2]) == [1, 4]


def test_chance_is_the_same_for_the_same_seed():
    close(scores("random"), scores("random"))
    assert ((scores("random") >= 0) & (scores("random") < 1)).all()


# --- activations -----------------------------------------------------------------------------------


def test_activations_are_those_that_the_next_layer_takes():
    first, second = taken()
    for group, x in (("conv", first), ("wide", second)):
        rows = x.transpose(0, 1).flatten(1).double()
        close(scores("activation", group), rows.abs().mean(1))
        close(scores("apoz", group), (rows != 0).double().mean(1))
    close(scores("variance"), first.transpose(0, 1).flatten(1).double().var(1, correction=0))
    close(scores("rank"), torch.linalg.matrix_rank(first).double().mean(0))


def test_the_variance_of_a_flattened_channel_is_a_mean_over_its_positions():
    close(scores("variance", "wide"), taken()[1].double().var(0, correction=0).mean((1, 2)))


@pytest.mark.parametrize("labelled", [True, False])
def test_mutual_information_is_with_the_label_or_the_networks_own_prediction(labelled: bool):
    first, _ = taken()
    mean = first.double().mean((2, 3)).numpy()
    with torch.no_grad():
        classes = (Y if labelled else net()(X).argmax(1)).numpy()
    centred = mean.copy()
    for c in set(classes.tolist()):
        centred[classes == c] -= mean[classes == c].mean(0)
    nats = np.log(mean.var(0) / (centred**2).mean(0)) / 2
    close(scores("mutual-information", labelled=labelled), nats)


def test_reconstruction_is_what_least_squares_leaves_of_the_next_layers_input():
    rows = taken()[0].movedim(1, -1).reshape(-1, 6).double().numpy()
    expected = []
    for c in range(6):
        others = np.column_stack([np.delete(rows, c, 1), np.ones(len(rows))])
        fit = np.linalg.lstsq(others, rows[:, c], rcond=None)[0]
        expected.append(((rows[:, c] - others @ fit) ** 2).mean() * float(W2[:, c].square().sum()))
    np.testing.assert_allclose(scores("reconstruction"), expected, rtol=1e-3, atol=1e-7)


def test_a_channel_of_several_positions_is_rebuilt_from_those_of_others():
    rows = torch.randn(60, 20, generator=torch.Generator().manual_seed(0)).numpy()
    (point,) = evidence().points(traced().coupling.group("wide"))
    left = unexplained(torch.from_numpy(np.cov(rows.T, bias=True)).double(), point)
    for c in range(5):
        mine = point.at[point.channel == c]
        others = np.column_stack([np.delete(rows, mine, 1), np.ones(len(rows))])
        fit = np.linalg.lstsq(others, rows[:, mine], rcond=None)[0]
        assert left[c] == pytest.approx(((rows[:, mine] - others @ fit) ** 2).mean(), rel=1e-3)


def test_every_prunable_group_of_every_net_is_seen():
    names = ("residual_adds", "dense_concat", "rotary", "learned_state", "bidirectional_gru", "shifted_windows", "group_conv")  # fmt: skip
    for name in names:
        found = trace(NETS[name].build(), NETS[name].inputs())
        material = Material(Batches([tuple(NETS[name].inputs())]))
        own = Evidence(
            read_state(found.model), original=Original(found.model, found.coupling, material)
        )
        for group in own.groups:
            held = sum(p.held for p, s in own.seen(group, Moments) if s.count)
            assert (np.asarray(held) > 0).all(), (name, group.name)


def test_a_program_is_seen_as_its_module_is():
    program = to_program(net(), (batch(0),))
    found = trace(program, batch(0))
    original = Original(program, found.coupling, Material(Batches(DATA, True)))
    own = Evidence(read_state(program), original=original)
    for name in ("variance", "taylor", "hessian", "norm-scale", "sensitivity"):
        close(scores_of(found.groups, own, name)[0]["conv"], scores(name))


def test_data_may_take_another_path_beside_the_layers():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.first(x)
            if not mask.all():  # as transformers do
                x = x * mask[..., None]
            return self.second(x.relu())

    model, x = Masked().eval(), torch.randn(2, 3, 4)
    whole, part = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = trace(model, (x, whole))
    material = Material(Batches([(x, part)]))
    own = Evidence(read_state(model), original=Original(model, found.coupling, material))
    rows = (model.first(x) * part[..., None]).relu().detach().reshape(-1, 8)
    close(scores_of(found.groups, own, "activation")[0]["first"], rows.abs().mean(0))


# --- gradients -------------------------------------------------------------------------------------


def gradients() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of the loss of each example: of both kernels, of what the second takes, and that itself."""
    small, out = net(), []
    for x, y in zip(X.split(1), Y.split(1), strict=True):
        seen = small.norm(small.conv(x)).relu()
        loss = functional.cross_entropy(small.head(small.wide(seen).relu().flatten(1)), y)
        out.append((*torch.autograd.grad(loss, [small.conv.weight, small.wide.weight, seen]), seen))
    return out  # type: ignore[return-value]


def test_gradients_are_means_over_examples():
    each = gradients()
    magnitude = torch.stack([g.abs().flatten(1).sum(1) for g, *_ in each]).mean(0)
    close(scores("gradient", by="filter"), magnitude)
    change = torch.stack([(W1 * g).flatten(1).sum(1).square() for g, *_ in each]).mean(0)
    close(scores("taylor", by="filter"), change)
    squares = torch.stack([(W1 * g).square().flatten(1).sum(1) for g, *_ in each]).mean(0)
    close(scores("fisher", by="filter"), squares / 2)


def test_the_gate_is_activation_times_gradient_at_what_takes_the_channel():
    each = [(a * g).sum((0, 2, 3)).abs() for _, _, g, a in gradients()]
    close(scores("taylor-gate"), torch.stack(each).mean(0).detach())


def test_without_labels_gradients_say_something_and_no_number_depends_on_the_batch_size():
    found = scores("taylor", labelled=False)
    assert (found > 0).all()
    one = Material(Batches([X]))
    own = Evidence(read_state(net()), original=Original(net(), traced().coupling, one))
    close(scores_of(traced().groups, own, "taylor")[0]["conv"], found)


def test_a_loss_of_ones_own():
    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return 3 * functional.cross_entropy(output, labels)

    close(scores("gradient", loss=loss), 3 * scores("gradient"))
    close(scores("taylor", loss=loss), 9 * scores("taylor"))


def test_the_hessians_diagonal_of_a_quadratic_is_known():
    """Linear in its weights, squared error: the diagonal is the mean square of what each weight takes, and
    those of one row do not mix under random signs but on average."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False))
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    found = trace(model, x)
    material = Material(Batches([(x, y)] * 100, True))
    own = Evidence(read_state(model), original=Original(model, found.coupling, material))
    own.by = "shared-kernel"
    (name,) = [g.name for g in own.groups]
    w = model[1].weight.detach()[0]
    expected = w.square() * (x @ model[0].weight.detach().T).square().mean(0)
    np.testing.assert_allclose(
        scores_of(found.groups, own, "hessian")[0][name], expected, rtol=0.4, atol=0.02
    )


def test_sensitivity_is_what_a_run_without_the_channel_says():
    small, (x, y) = net(), DATA[0]
    with torch.no_grad():
        whole, first = small(x), small.norm(small.conv(x)).relu()
        loss, distance = [], []
        for c in range(6):
            less = first.clone()
            less[:, c] = 0
            out = small.head(small.wide(less).relu().flatten(1))
            loss.append(
                float(functional.cross_entropy(out, y) - functional.cross_entropy(whole, y))
            )
            distance.append(float((out - whole).square().mean() / whole.square().mean()))
    np.testing.assert_allclose(scores("sensitivity"), loss, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores("sensitivity", labelled=False), distance, rtol=1e-3)


# --- how they are brought together -------------------------------------------------------------------


def test_a_channel_counts_where_it_is_held():
    table = shares(
        [(np.array([1.0, 2, 9]), np.array([True, True, False])), (np.array([3.0, 9, 9]), np.array([True, False, False]))],
        3,
    )  # fmt: skip
    found = {name: reduce(table).tolist() for name, reduce in REDUCTIONS.items()}
    assert found == {"mean": [2, 2, 0], "sum": [4, 2, 0], "max": [3, 2, 0], "first": [1, 2, 0]}


def test_normalisers():
    s = np.array([1.0, 4.0, 1.0])
    found = {name: normalise(s).round(6).tolist() for name, normalise in NORMALISERS.items()}
    assert found == {
        "none": [1, 4, 1], "mean": [0.5, 2, 0.5], "max": [0.25, 1, 0.25],
        "gaussian": [-0.707107, 1.414214, -0.707107], "lamp": [0.166667, 1, 0.2],
    }  # fmt: skip


def test_what_is_not_finite_goes_first_whatever_the_scale():
    def mine(group, evidence):
        return np.where(np.arange(group.size) == 2, np.nan, 5.0 + np.arange(group.size))

    for how in (None, *NORMALISERS):
        found, broken = scores_of(traced().groups, evidence(), mine, "mean", how)
        assert np.argmin(found["conv"]) == 2 and "conv" in broken
        assert np.isfinite(np.delete(found["conv"], 2)).all()


def test_a_normaliser_decides_how_groups_compete():
    def mine(group, evidence):
        return (1.0 if group.name == "conv" else 100.0) + np.arange(group.size)

    common = {"criterion": mine, "scope": "global"}
    raw = surgeon.propose(net(), batch(0), 0.4, normalise="none", **common).plan
    assert {g.name: g.size - g.kept for g in raw.groups} == {"conv": 4, "wide": 0}
    relative = surgeon.propose(net(), batch(0), 0.4, **common).plan
    again = surgeon.propose(net(), batch(0), 0.4, normalize="mean", **common).plan
    assert relative.keep == again.keep != raw.keep


def test_lamp_is_compared_as_it_is():
    plan = surgeon.propose(net(), batch(0), 0.4, criterion="lamp", scope="global").plan
    assert plan.request["normalise"] == "none"


# --- criteria of others --------------------------------------------------------------------------------


def test_a_function_of_the_model_is_told_by_its_second_parameter():
    def mine(group, model):
        return model.conv.weight.abs().sum((1, 2, 3)) if group.name == "conv" else None

    close(scores(mine), W1.abs().sum((1, 2, 3)))


def test_torch_prunings_importances_compute_on_our_groups():
    tp = pytest.importorskip("torch_pruning")
    magnitude = tp.importance.MagnitudeImportance(p=2, normalizer=None, group_reduction="sum")
    made, read = W1.square().sum((1, 2, 3)), W2.square().sum((0, 2, 3))
    close(scores(magnitude), made + read + net().norm.weight.detach().square())
    theirs = tp.importance.FPGMImportance(normalizer=None, group_reduction="first")
    close(scores(theirs), torch.cdist(W1.square().flatten(1), W1.square().flatten(1)).sum(1))
    assert scores(tp.importance.BNScaleImportance())[0] > 0
    plan = surgeon.propose(net(), batch(0), 0.5, criterion=magnitude).plan
    assert plan.request["criterion"] == "MagnitudeImportance"


def test_torch_prunings_scores_agree_with_its_own_groups():
    tp = pytest.importorskip("torch_pruning")
    graph = tp.DependencyGraph().build_dependency(net(), batch(0))
    theirs = graph.get_pruning_group(net().wide, tp.prune_conv_out_channels, list(range(5)))
    for importance in (tp.importance.MagnitudeImportance(), tp.importance.LAMPImportance()):
        close(scores(importance, "wide"), importance(theirs).numpy())


def test_an_importance_without_its_gradients_says_what_it_wants():
    tp = pytest.importorskip("torch_pruning")
    with pytest.raises(BadInput, match=r"TaylorImportance of torch-pruning fails.*\n?.*backward"):
        scores(tp.importance.TaylorImportance())


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, k in CRITERIA.items() if k.reads])
def test_a_criterion_that_reads_data_says_so(name: str):
    with pytest.raises(BadInput, match=f"criterion '{name}' needs data.*\nhint: give data="):
        surgeon.propose(net(), batch(0), 0.5, criterion=name)
    assert surgeon.propose(net(), batch(0), 0.5, criterion=name, data=iter([X])).plan.removed


REFUSED = {
    "no criterion 'fpgn'\nhint: did you mean fpgm": {"criterion": "fpgn"},
    "a int is no criterion": {"criterion": 3},
    "reduce 'median' does not exist": {"reduce": "median"},
    "normalise 'zscore' does not exist": {"normalise": "zscore"},
    "data is a Tensor": {"criterion": "apoz", "data": X},
    "data is empty": {"criterion": "apoz", "data": []},
    "labelled data are pairs": {"criterion": "apoz", "data": [X], "labelled": True},
    "there are no data": {"labelled": True},
    "loss is a str": {"loss": "mse"},
    "the loss must be one number": {"criterion": "taylor", "data": [X], "loss": lambda out, _: out},
    "do not fit the first output": {"criterion": "taylor", "data": [(X, Y[:3])], "labelled": True},
    "the model fails in forward": {"criterion": "apoz", "data": [X[:, :2]]},
    "criterion gave": {"criterion": lambda group, evidence: np.ones(3)},
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_scored_is_refused(text: str):
    with pytest.raises(BadInput, match=text):
        surgeon.propose(net(), batch(0), 0.5, **REFUSED[text])


def test_the_model_is_not_touched():
    before = {n: t.clone() for n, t in net().state_dict().items()}
    surgeon.shrink(net(), batch(0), 0.5, criterion="sensitivity", data=[X], measure=False)
    surgeon.propose(net(), batch(0), 0.5, criterion="hessian", data=[X])
    assert all(torch.equal(before[n], t) for n, t in net().state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net().parameters())


def test_what_a_criterion_of_ones_own_raises_is_named():
    with pytest.raises(BadInput, match=r"failed on .*: ZeroDivisionError"):
        surgeon.shrink(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
            torch.zeros(2, 4),
            ratio=0.5,
            criterion=lambda group, model: 1 / 0,
            measure=False,
        )


def test_data_that_are_no_numbers_are_refused_by_number():
    data = [torch.rand(3, 4), torch.rand(3, 4)]
    data[1][1, 2] = float("nan")
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(BadInput, match="example 5 holds NaN"):
        surgeon.shrink(net, torch.zeros(2, 4), ratio=0.5, data=data, measure=False)


@pytest.mark.parametrize("name", ["l1", "l2", "linf", "taylor", "hessian", "reconstruction"])
def test_a_parameter_without_elements_says_nothing(name: str):
    """No class tokens, as where a ViT takes the mean: f32[0, width]."""

    class NoTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.tokens = nn.Linear(6, 16), nn.Parameter(torch.randn(0, 16))
            self.mix, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.tokens.expand(len(x), -1, -1), self.stem(x)], 1)
            return self.out(torch.relu(x + self.mix(x)).mean(1))

    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    result = surgeon.shrink(NoTokens(), x, 0.5, criterion=name, data=[x], measure=False)
    assert result.model.tokens.shape == (0, 8) and result.model.stem.out_features == 8
