"""Layers that one call runs and another skips: what joins them on either side is cut alike, or a note says that it was not seen."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.cut.asked import asked
from surgeon.errors import CheckFailed
from surgeon.pipeline.replay import apply_checked
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record, trains_otherwise

torch.set_num_threads(1)
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
SOME, FULL = torch.ones(2, 5, dtype=torch.bool).tril(3), torch.ones(2, 5, dtype=torch.bool)


class Net(nn.Module):
    """`middle` says which layers come between the first and the last."""

    def __init__(self, middle: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c = nn.Linear(8, 32), nn.Linear(32, 4)
        self.b = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.middle = middle

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        return self.c(self.middle(self, self.a(x).relu(), said))


def padded(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return h if said.all() else net.b[0](h)


def equal(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return h if torch.equal(said, torch.ones_like(said)) else net.b[0](h)


def chosen(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return net.b[int(said[0, -1])](h)


def by_value(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return h if h.mean() < 100 * (1 - said.float().mean()) else net.b[0](h)


def task(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return net.b[0](h) if said > 0 else h


def counted(net: Net, h: Tensor, said: Tensor) -> Tensor:
    for k in range(int(said)):
        h = net.b[k](h).tanh()
    return h


def alternating(net: Net, h: Tensor, said: Tensor) -> Tensor:
    for k in range(int(said)):
        h = net.b[k % 2](h).tanh()
    return h


def calls() -> list[tuple[Callable[..., Tensor], Tensor, Tensor]]:
    sides = [(middle, SOME, FULL) for middle in (padded, equal, chosen, by_value)]
    numbers = [(task, 1, 0), (counted, 2, 1), (counted, 1, 0), (alternating, 2, 1)]
    both = sides + [(middle, torch.tensor(a), torch.tensor(b)) for middle, a, b in numbers]
    return [*both, *((middle, b, a) for middle, a, b in both)]


@pytest.mark.parametrize(("middle", "given", "other"), calls())
def test_a_skipped_layer_is_cut_for_both_calls(
    middle: Callable[..., Tensor], given: Tensor, other: Tensor
):
    net = Net(middle).eval()
    result = surgeon.shrink(net, (X, given), 0.5, measure=False)
    assert result.model.a.out_features == 16
    masked = zeroed(net, result.plan)
    for said in (given, other):
        assert torch.allclose(masked(X, said), result.model(X, said), atol=1e-5)


def zeroed(net: nn.Module, plan: surgeon.Plan) -> nn.Module:
    """The network with zeros for what the plan removes: where nothing mixes channels, what the cut one computes."""
    copied = copy.deepcopy(net)
    for name, dims in plan.keep.items():
        tensor = copied.state_dict()[name]
        for dim, kept in dims.items():
            gone = sorted(set(range(tensor.shape[dim])) - set(kept))
            tensor.index_fill_(dim, torch.tensor(gone), 0.0)
    return copied


def eval_alone(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return h if net.training else net.b[0](h)


def training_alone(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return net.b[0](h) if net.training else h


def behind_a_buffer(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return (h if net.training else net.b[0](h)) + net.shift


def written_over(net: Net, h: Tensor, said: Tensor) -> Tensor:
    if not said.all():
        raise ValueError("an input that was used before")
    said.logical_not_()
    return h if net.training else net.b[0](h)


@pytest.mark.parametrize("middle", [eval_alone, training_alone, behind_a_buffer, written_over])
def test_a_layer_that_one_mode_skips_is_cut_for_both(middle: Callable[..., Tensor]):
    net = Net(middle).eval()
    net.register_buffer("shift", torch.linspace(-1, 1, 32))
    result = surgeon.shrink(net, (X, FULL.clone()), 0.5, measure=False)
    replayed = apply_checked(result.plan, net, (X, FULL.clone()), measure=False).model
    stepwise = surgeon.shrink(net, (X, FULL.clone()), 0.5, steps=2, measure=False)
    assert stepwise.plan.keep.keys() == result.plan.keep.keys()
    masked = zeroed(net, result.plan)
    for slim in (result.model, replayed):
        for mode in (True, False):
            want, got = (m.train(mode)(X, FULL.clone()) for m in (masked, slim))
            assert torch.allclose(want, got, atol=1e-5)


class Following(nn.Module):
    """`shift` is added to what one layer gives; in train mode it may follow another one."""

    def __init__(self, followed: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (
            nn.Linear(*size) for size in ((8, 32), (8, 32), (32, 4), (32, 4))
        )
        self.norm, self.followed = nn.BatchNorm1d(5), followed
        self.register_buffer("shift", torch.linspace(-1, 1, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        made = {"a": self.a(x), "b": self.b(x)}
        out = self.c(made["a"] + self.shift) + self.d(made["b"])
        if self.training and self.followed:
            with torch.no_grad():
                self.shift.mul_(0.9).add_(made[self.followed].mean((0, 1)), alpha=0.1)
        return out


@pytest.mark.parametrize("followed", ["", "a", "b"])
def test_a_buffer_that_both_modes_read_is_cut_with_what_it_follows_in_one(followed: str):
    net = Following(followed).eval()
    inputs = Inputs.of(X)
    assert trains_otherwise(net, inputs, record(net, inputs)) is (followed == "b")
    result = surgeon.shrink(net, X, 0.5, measure=False)
    masked = zeroed(net, result.plan)
    for mode in (True, False):
        want, got = (m.train(mode)(X) for m in (masked, result.model))
        assert torch.allclose(want, got, atol=1e-5)
    kept = result.plan.keep["shift"][0]
    assert torch.allclose(masked.shift[list(kept)], result.model.shift)


def test_a_plan_that_is_wrong_in_train_mode_alone_is_refused():
    net = Net(eval_alone).eval()
    plan = surgeon.shrink(net, (X, FULL), 0.5, measure=False, check=False).plan
    with pytest.raises(CheckFailed, match="wrong in train mode"):
        apply_checked(plan, net, (X, FULL), measure=False)


def test_modes_that_differ_by_dropout_alone_are_the_same():
    net = Net(lambda net, h, said: nn.functional.dropout(net.b[0](h), 0.5, net.training)).eval()
    inputs = Inputs.of((X, FULL))
    graph = record(net, inputs)
    assert not trains_otherwise(net, inputs, graph)
    net.middle = eval_alone
    assert trains_otherwise(net, inputs, record(net, inputs))


def by_numpy(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return net.b[0](h) if said.numpy().any() else h


def by_list(net: Net, h: Tensor, said: Tensor) -> Tensor:
    return net.b[0](h) if any(said.flatten().tolist()) else h


@pytest.mark.parametrize("middle", [by_numpy, by_list])
def test_what_other_code_reads_of_a_mask_is_told(middle: Callable[..., Tensor]):
    result = surgeon.shrink(Net(middle).eval(), (X, FULL), 0.5, measure=False)
    assert any("followed on one side alone" in note for note in result.notes)


class Checks(nn.Module):
    """Compares counts that its width is in, as vision-language models do; nothing is made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        h = self.a(x)
        if said.sum() * h.shape[-1] != h[said].numel():
            raise ValueError
        return self.c(h)


def test_a_check_of_counts_is_no_hindrance():
    net = Checks().eval()
    assert any(
        "aten.ne" in graph.nodes[i].op for graph in [record(net, (X, SOME))] for i in asked(graph)
    )
    result = surgeon.shrink(net, (X, SOME), 0.5, measure=False)
    assert result.model.a.out_features == 16


class Exported(nn.Module):
    """Computes something else while it is exported; the size in its view keeps the module from following."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 32), nn.Linear(32, 4)
        self.u, self.v = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu().view(*x.shape[:2], 4, 8).flatten(2)
        y = self.c(h) + self.v(self.u(x).relu())
        return y * 2 if torch.compiler.is_exporting() else y


def test_a_program_that_is_wrong_before_the_cut_is_none():
    result = surgeon.shrink(Exported().eval(), X, 0.5, measure=False, program=True)
    assert (result.way, result.model.a.out_features, result.model.u.out_features) == (
        "module",
        32,
        32,
    )
    assert any("neither surgery follows aten.view" in note for note in result.notes)


def test_writes_and_outputs_are_no_checks():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            h[..., :2].fill_(0)
            if h.shape[0] < int(torch.tensor(3) * 1):
                h = h + 1
            return h

    graph = record(Writes().eval(), X)
    free = {graph.nodes[i].op for i in asked(graph)}
    assert not any("slice" in op or "fill_" in op or "addmm" in op for op in free)
    assert any("_local_scalar_dense" in op for op in free)
