"""The side of an `if` that the example inputs do not take: followed by the cut, proven, or held by name."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.errors import CheckFailed, SurgeonError
from surgeon.trace.decided import decided
from surgeon.trace.expensive import made_of_little
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record, record_as, record_real

Side = Callable[["Turning", Tensor], Tensor]
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LARGE = X * 1e6  # takes the other side


class Turning(nn.Module):
    """Does something more where what it sees is large; how it looks at that, and what it does, are the tests'."""

    def __init__(self, look: Callable[[Tensor], Any], side: Side) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.extra = nn.Conv2d(16, 16, 1)
        self.look, self.side, self.dim = look, side, 16

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.look(h):
            h = self.side(self, h)
        return self.d(self.c(self.b(h)).relu())


def number(h: Tensor) -> bool:
    return h.mean().item() > 1e3


def truth(h: Tensor) -> Any:
    return h.mean() > 1e3


def count(h: Tensor) -> Any:
    return (h > 1e3).sum().item()


def twice(h: Tensor) -> bool:
    return h.mean().item() > 1e3 and h.amax().item() > 1e3


LOOKS = [number, truth, count, twice]


def by_attribute(net: Turning, h: Tensor) -> Tensor:
    return h.reshape(len(h), net.dim, -1).softmax(-1).view_as(h)


def written_out(_net: Turning, h: Tensor) -> Tensor:
    return h.reshape(len(h), 16, -1).softmax(-1).view_as(h)


def scaled(_net: Turning, h: Tensor) -> Tensor:
    return h * h.shape[1] ** -0.5


def swapped(_net: Turning, h: Tensor) -> Tensor:
    return torch.cat([h[:, 8:], h[:, :8]], 1)


def layered(net: Turning, h: Tensor) -> Tensor:
    return net.extra(h).sigmoid()


def followed(net: Turning, result: surgeon.Result) -> bool:
    """Whether the copy computes on the other side what the original does of the channels that it kept."""
    masked = copy.deepcopy(net)
    surgeon.mask(masked, result.plan)
    return torch.allclose(masked(LARGE), result.model(LARGE), rtol=1e-3)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("side", [by_attribute, layered])
def test_what_can_follow_is_cut_on_both_sides(look: Callable[[Tensor], Any], side: Side):
    net = Turning(look, side).eval()
    result = surgeon.shrink(net, X, 0.5, measure=False)
    assert (result.way, result.model.a.out_channels) == ("module", 8)
    assert result.check is not None
    assert followed(net, result)
    assert result.model.dim == (8 if side is by_attribute else 16)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("side", [written_out, swapped, scaled])
def test_what_cannot_is_held_by_name_and_the_rest_is_cut(look: Callable[[Tensor], Any], side: Side):
    net = Turning(look, side).eval()
    result = surgeon.shrink(net, X, 0.5, measure=False)
    assert (result.model.a.out_channels, result.model.c.out_channels) == (16, 6)
    assert any(
        "test_turns.py" in note and note.endswith("so this stays whole: a") for note in result.notes
    )
    assert followed(net, result)


def test_where_nothing_is_left_it_says_what_to_write():
    net = Turning(number, written_out).eval()
    with pytest.raises(SurgeonError, match=r"neither surgery follows aten\.view") as caught:
        surgeon.remove(net, X, {"a": [0, 1, 2]}, measure=False)
    assert "a size there stays 16 where the cut makes 13 of it" in str(caught.value.hint)


@pytest.mark.parametrize("look", LOOKS)
def test_a_fault_on_the_other_side_is_found(look: Callable[[Tensor], Any]):
    net = Turning(look, layered).eval()
    result = surgeon.shrink(net, X, 0.5, measure=False)
    with torch.no_grad():
        result.model.extra.weight.mul_(-1)
    with pytest.raises(CheckFailed, match=r"on the path where test_turns.py:\d+ reads"):
        surgeon.check(net, result.model, result.plan, X)
    graph = record(net, Inputs.of(X))
    with pytest.raises(CheckFailed, match=r"first difference: aten.convolution.default at extra"):
        surgeon.check(net, result.model, result.plan, X, recorded=graph)


def test_the_copy_is_recorded_along_the_same_paths():
    net = Turning(twice, layered).eval()
    graph = record(net, Inputs.of(X))
    first, second = graph.turns
    assert [f.number for f in first] == [1e7]
    assert [f.number for f in second] == [1e7, 1e7]
    again = record_as(net, Inputs.of(X), graph)
    assert [n.op for n in again.nodes] == [n.op for n in graph.nodes]
    assert (again.own, again.turns, len(again.ends)) == (graph.own, graph.turns, len(graph.ends))


def test_a_number_that_the_code_alone_decides_is_no_turn():
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            level = torch.zeros(2)
            level[0] = torch.tensor(4.0).log2()
            if level[0].item() > 3:
                x = x.sigmoid()
            if x.sum() > 1e9:  # so that it is recorded on real tensors
                x = x.tanh()
            seen = torch.zeros(2)
            seen[0] = x.mean()
            if seen[0].item() > 3:
                x = x.relu()
            return self.a(x)

    graph = record(Levels().eval(), Inputs.of(X))
    assert {type(f.number) for path in graph.turns for f in path} == {bool, float}
    assert not any(n.op == "aten.sigmoid.default" for n in graph.nodes)
    assert any(n.op == "aten.relu.default" for n in graph.nodes)


class Buffered(nn.Module):
    """Its padding is a tensor, and so is what it has seen."""

    def __init__(self, *, saved: bool, writes: bool = False) -> None:
        super().__init__()
        self.a, self.writes = nn.Conv2d(3, 16, 1), writes
        self.register_buffer("pad", torch.tensor(2), persistent=saved)

    def forward(self, x: Tensor) -> Tensor:
        if self.writes:
            self.pad.add_(1)
        if x.shape[-1] <= int(self.pad):
            x = x.sigmoid()
        return self.a(x)


def test_a_buffer_decides_where_it_may_be_loaded_or_is_written():
    """What no state dict has is what the code made it: EnCodec's paddings."""
    nets = [Buffered(saved=False), Buffered(saved=True), Buffered(saved=False, writes=True)]
    graphs = [record_real(net.eval(), Inputs.of(X), "") for net in nets]
    assert [len(decided(graph)) for graph in graphs] == [0, 1, 1]
    assert [bool(graph.turns) for graph in graphs] == [False, True, True]


class Chance(nn.Module):
    """Looks at numbers that no input decides, and that are not the code's alone."""

    def __init__(self, look: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.a, self.look = nn.Linear(4, 4), look

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x.relu() if self.look(x) > 1e3 else x)


def drawn(_x: Tensor) -> float:
    return torch.rand(()).item()


def by_numpy(x: Tensor) -> float:
    return torch.from_numpy(x.detach().numpy().mean(keepdims=True))[0].item()


def by_python(x: Tensor) -> float:
    return torch.tensor(min(x.mean().item(), 1.0)).item()


@pytest.mark.parametrize("look", [drawn, by_numpy, by_python])
def test_what_chance_numpy_or_python_made_of_data_is_one(look: Callable[[Tensor], float]):
    graph = record(Chance(look).eval(), Inputs.of(torch.randn(3, 4)))
    assert any(path[-1].number == 1e7 for path in graph.turns)
    assert any(n.op == "aten.relu.default" for n in graph.nodes)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_part_is_no_hindrance():
    net = nn.Sequential(Chance(by_python), torch.jit.script(nn.BatchNorm1d(4))).eval()
    assert record(net, Inputs.of(torch.randn(3, 4))).turns


class Deep(nn.Module):
    """Blocks of which each input takes some, and three heads of which it takes the first that is sure."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Linear(12, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h, out = self.stem(x), x
        for i, (block, head) in enumerate(zip(self.blocks, self.heads, strict=True)):
            if x[:, i].mean() > 0:
                h = h + block(h)
            out = head(h)
            if x[:, i].amax().item() > 50:
                return out
        return out


def signs() -> list[Tensor]:
    base = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    some = [base * torch.tensor([1.0 if k >> j & 1 else -1.0 for j in range(6)]) for k in range(8)]
    return some + [base * torch.eye(6)[i] * 100 for i in range(3)]


@pytest.mark.parametrize("given", [0, 5, 7])
def test_decisions_in_a_loop_are_told_apart(given: int):
    """Depth and exits that depend on the data: whatever the example takes, all blocks and exits follow."""
    net, inputs = Deep().eval(), signs()
    result = surgeon.shrink(net, inputs[given], 0.5, measure=False)
    assert {b[0].out_features for b in result.model.blocks} == {12}
    assert {h.out_features for h in result.model.heads} == {3}
    masked = copy.deepcopy(net)
    surgeon.mask(masked, result.plan)
    for x in inputs:
        assert torch.allclose(masked(x), result.model(x), atol=1e-5)


def test_the_side_that_the_example_takes_is_proven_when_noise_takes_another():
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.by = nn.Linear(6, 16), nn.Linear(16, 4), 1.0

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            if x.mean().item() > 0.8:
                h = h * self.by
            return self.b(h)

    net, x = Added().eval(), torch.rand(4, 6) + 1
    result = surgeon.shrink(net, x, 0.5, measure=False)
    result.model.by = 3.0
    with pytest.raises(CheckFailed, match="on the path where"):
        surgeon.check(net, result.model, result.plan, x)


def test_a_loop_over_a_forced_number_ends():
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            for _ in range(round(x.abs().mean().item() * 2)):
                h = h + h.tanh() * 0.1
            return self.b(h)

    result = surgeon.shrink(Steps().eval(), torch.ones(4, 6), 0.5, measure=False)
    assert result.model.a.out_features == 8
    assert any("reads numbers at test_turns.py:" in note for note in result.notes)


def test_a_width_that_is_added_is_held_by_name():
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            if x.mean().item() > 0:
                h = h + float(h.shape[1])
            return self.c(self.b(h).relu())

    result = surgeon.shrink(Wide().eval(), torch.ones(4, 6), 0.5, measure=False)
    assert (result.model.a.out_features, result.model.b.out_features) == (16, 6)
    assert any("computes something else from aten.add" in note for note in result.notes)


class Padded(nn.Module):
    """Looks at a mask, which is no real number: recorded without numbers at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.width = nn.Linear(6, 16), nn.Linear(16, 4), 16
        self.gate = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.a(x).relu()
        if not mask.all():
            h = self.gate(h).masked_fill(~mask[:, None], 0).view(-1, self.width)
        return self.b(h)


FULL, SOME = torch.ones(4, dtype=torch.bool), torch.tensor([True, False, True, True])


def test_a_mask_decides_too():
    net, x = Padded().eval(), torch.randn(4, 6)
    assert record(net, Inputs.of((x, FULL))).on_meta
    result = surgeon.shrink(net, (x, FULL), 0.5, measure=False)
    assert (result.model.width, result.model.gate.in_features) == (8, 8)
    assert any("its inputs decide what runs" in note for note in result.notes)
    masked = copy.deepcopy(net)
    surgeon.mask(masked, result.plan)
    for mask in (FULL, SOME):
        assert torch.allclose(masked(x, mask), result.model(x, mask), atol=1e-6)


def test_the_other_side_of_a_mask_is_proven():
    net, x = Padded().eval(), torch.randn(4, 6)
    result = surgeon.shrink(net, (x, FULL), 0.5, measure=False)
    result.model.width = 16
    with pytest.raises(CheckFailed, match="the cut model fails where the original runs"):
        surgeon.check(net, result.model, result.plan, (x, FULL))


def test_what_a_mask_switches_on_elsewhere_alone_costs_no_second_recording():
    """Where both sides follow the cut by themselves, the first recording is enough."""

    class Plain(Padded):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            h = self.a(x).relu()
            if not mask.all():
                h = h * mask[:, None]
            return self.b(h)

    result = surgeon.shrink(Plain().eval(), (torch.randn(4, 6), FULL), 0.5, measure=False)
    assert result.model.a.out_features == 8
    assert not any("its inputs decide" in note for note in result.notes)


def test_a_number_that_becomes_a_size_does_not_fill_the_memory():
    """Another size than the one that was read may be one that no machine has: the path is left out."""

    class Pasted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            wide = max(int(x.abs().amax().item()), 1)
            tall = torch.zeros(wide, 8, dtype=torch.uint8)
            h = nn.functional.interpolate(h, size=(8 + 2 * wide, 8), mode="bilinear")
            return self.b(h) + tall.float().mean()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = surgeon.shrink(Pasted().eval(), X, 0.5, measure=False)
    assert result.model.a.out_channels == 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e6  # KiB


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "made"),
    [
        ("zeros", ([10**7, 100],), {}, 10**9),
        ("repeat", (torch.ones(4), [10**6]), {}, 4 * 10**6),
        ("view", (torch.ones(1 << 17), [1 << 17]), {}, 0),
        ("upsample_nearest2d", (X, [10**5, 8]), {}, 2 * 3 * 8 * 10**5),
        ("upsample_nearest2d", (X, [16, 16]), {}, 0),
    ],
)
def test_what_is_made_of_little_is_known_before(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any], made: int
):
    assert made_of_little(getattr(torch.ops.aten, op).default, args, kwargs) == made
