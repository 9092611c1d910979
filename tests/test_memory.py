"""Paths of a forward that depends on the data: what runs have in common is computed once, and it is the same graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.detectors import SMALL
from surgeon.graph import Graph
from surgeon.trace import paths
from surgeon.trace.inputs import Inputs
from surgeon.trace.memory import Memory
from surgeon.trace.paths import record_paths

RUNS: list[int] = []


@torch.library.custom_op("surgeon_tests::heavy", mutates_args=())
def heavy(x: Tensor) -> Tensor:
    """An op that counts how often it is really run."""
    RUNS.append(1)
    return x * 2


class Branches(nn.Module):
    """Numbers are read, positions and features are written in place, and a view outlives its base."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.size: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = heavy(self.a(x)).relu_()
        if self.size is None:  # kept from the first run on
            self.size = int((x.sum() * 0 + 3).item())
        half = (x * 1)[:, :4]
        found = torch.zeros_like(x[:, 0, 0, 0], dtype=torch.int64)
        found[x.mean((1, 2, 3)) > 0] = 1
        total = torch.zeros(2)
        for k in range(2):
            if x[k].sum().item() > 1e6:
                total[k] = self.b(x)[k].sum()
            else:
                total[k] = half[k].sum()
        if found.sum().item() == 0:
            return self.b(x).mean((2, 3)) + total[:, None]
        return torch.cat([half, half], 1).mean((2, 3)) + total[:, None]


def ops(graph: Graph) -> list[tuple[str, object]]:
    return [(node.op, [v.shape for v in node.outputs if v]) for node in graph.nodes]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No run remembers another."""
    monkeypatch.setattr(Memory, "mark", lambda self, place: None)
    return monkeypatch


def test_what_runs_have_in_common_is_computed_once_though_the_network_keeps_a_number() -> None:
    RUNS.clear()
    graph = record_paths(Branches().eval(), Inputs.of(torch.randn(2, 3, 64, 64)))
    # the second run is another, as the network kept a number, but only after that
    assert len(RUNS) == 1
    assert sum(node.op == "surgeon_tests.heavy.default" for node in graph.nodes) > 2


CASES = {"branches": lambda: (Branches().eval(), (torch.randn(2, 3, 64, 64),))} | {
    name: SMALL[name] for name in ("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
}


@pytest.fixture
def few_runs() -> Iterator[None]:
    """A few paths say as much of what they have in common as all do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "_RUNS", 4)
        yield


@pytest.mark.usefixtures("few_runs")
@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_that_of_runs_in_full(name: str, forgetful: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    full = record_paths(model.eval(), Inputs.of(inputs))
    forgetful.undo()
    short = record_paths(model.eval(), Inputs.of(inputs))
    assert ops(short) == ops(full)
    for a, b in zip(full.nodes, short.nodes, strict=True):
        for u, v in zip(a.outputs, b.outputs, strict=True):
            if u and u.constant is not None and "empty" not in a.op:
                assert torch.equal(u.constant, v.constant), (a, b)


SEEN: list[float] = []


def test_keywords_of_the_same_numbers_are_another_op() -> None:
    memory, x, y = Memory(), torch.randn(300, 300), torch.randn(300, 300)
    with memory.begun(""), memory:
        first = torch.addmm(x, x, y, beta=2)
        memory.mark("here")
    with memory.begun("here"), memory:
        given = torch.addmm(x, x, y, alpha=2)
    assert torch.equal(given, torch.addmm(x, x, y, alpha=2)) and not torch.equal(given, first)


class Writes(nn.Module):
    """Numbers are looked at before and after they are written over."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        y = heavy(x.repeat(self.size, 1))
        sign = y.sum().item() > 0
        SEEN.append(y[0].tolist()[0])
        y.mul_(100)
        SEEN.append(y[0].tolist()[0])
        z = y + 1 if sign else y - 1
        large = y.max().item() > 10
        SEEN.append(y[0].tolist()[0])
        y.mul_(100)
        return z + y if large else z - y


@pytest.mark.parametrize("size", [2, 20_000])  # light, and not
def test_every_run_sees_the_numbers_as_they_were(size: int) -> None:
    SEEN.clear()
    RUNS.clear()
    record_paths(Writes(size), Inputs.of(torch.ones(2, 4)))
    assert len(SEEN) > 6
    assert len(RUNS) == (1 if size > 2 else len(SEEN) // 3)
    assert set(SEEN[0::3]) == {2.0}
    assert set(SEEN[1::3]) == {200.0}
    assert set(SEEN[2::3]) == {200.0}


class Settles(nn.Module):
    """Reads a number in its first run alone, where it then may hold less, or other numbers, than other runs do."""

    def __init__(self, before: str) -> None:
        super().__init__()
        self.before = before
        self.scales = deque[float]()  # what is in plain lists is taken off

    def forward(self, x: Tensor) -> Tensor:
        y = heavy(x.repeat(20_000, 1))
        z = y + 1
        if not self.scales:
            scale = torch.tensor(8.0)
            if self.before == "dropped":
                z = y
            if self.before == "written":
                z.mul_(5)
            self.scales.append(scale.log2().item())
            z = y + 1
        z = z * self.scales[0]
        SEEN.append(z.max().item())
        return z


@pytest.mark.parametrize(("before", "runs"), [("held", 1), ("dropped", 2), ("written", 2)])
def test_a_run_that_departs_has_the_numbers_that_it_goes_on_with(before: str, runs: int) -> None:
    SEEN.clear()
    RUNS.clear()
    record_paths(Settles(before), Inputs.of(torch.ones(2, 4)))
    assert {n for n in SEEN if 0 < abs(n) < 1e7} == {9.0}
    assert len(RUNS) == runs  # what is not known any more has to be computed once more


class Keeps(nn.Module):
    """Does something in its first run alone, and says so in an attribute."""

    def forward(self, x: Tensor) -> Tensor:
        y = heavy(x.repeat(20_000, 1))
        if not hasattr(self, "scale"):
            y.mul_(5)
            self.scale = torch.tensor(8.0).log2().item()
        SEEN.append(y.max().item())
        return y * self.scale


def test_what_a_run_keeps_on_modules_is_taken_off_before_the_next() -> None:
    SEEN.clear()
    RUNS.clear()
    model = Keeps()
    graph = record_paths(model, Inputs.of(torch.ones(2, 4)))
    assert SEEN == [10.0, -1e7, 1e7, 0.0]
    assert len(RUNS) == 1
    assert graph.turns == ()
    assert not hasattr(model, "scale")
