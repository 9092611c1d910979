"""Runs that are looked at for their lines of code alone: drawn numbers show what computed ones do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgeon.graph import Graph
from surgeon.trace import paths
from surgeon.trace.drawn import Drawn
from surgeon.trace.inputs import Inputs
from surgeon.trace.paths import record_paths


class Finder(nn.Module):
    """Refines what passes a threshold, which is nothing with its own weights; expensive enough to be drawn."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.body, self.neck = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)
        self.score, self.refine = nn.Conv2d(64, 8, 3), nn.Linear(64, 5)
        self.threshold = threshold
        with torch.no_grad():
            self.score.weight.mul_(1e-3)
            self.score.bias.fill_(-20)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.neck(F.relu(self.body(x))))
        found = (self.score(x).amax(1) > self.threshold).nonzero()
        return self.refine(x[found[:, 0], :, found[:, 1], found[:, 2]])


def graph_of(threshold: float) -> Graph:
    torch.manual_seed(0)
    return record_paths(Finder(threshold).eval(), Inputs.of(torch.randn(2, 3, 48, 48)))


def refined(graph: Graph) -> list[int]:
    """How many were refined, run by run."""
    return [
        n.outputs[0].shape[0]
        for n in graph.nodes
        if n.module == "refine" and "addmm" in n.op and n.outputs[0]
    ]


@pytest.mark.parametrize("threshold", [0.5, 9.0])  # drawn numbers pass the first one alone
def test_a_path_is_found_where_drawn_numbers_find_it_and_where_they_do_not(
    threshold: float,
) -> None:
    first, *others = refined(graph_of(threshold))
    assert first == 0
    assert len(others) == 1
    assert others[0] > 0


def test_only_the_expensive_is_drawn() -> None:
    drawn = Drawn()
    x, weight = torch.randn(1, 64, 48, 48), torch.randn(64, 64, 3, 3)
    with drawn:
        large, small = F.conv2d(x, weight), F.conv2d(x[..., :3, :3], weight)
        added = x + 1
    assert drawn.ops == 1
    assert large.shape == (1, 64, 46, 46)
    assert large.stride() == F.conv2d(x, weight).stride()
    assert not torch.equal(large, F.conv2d(x, weight))
    assert abs(float(large.std()) - 1) < 0.05
    assert torch.equal(small, F.conv2d(x[..., :3, :3], weight))
    assert torch.equal(added, x + 1)


def test_a_path_that_cannot_be_taken_fails_as_it_does_when_computed() -> None:
    with pytest.raises(RuntimeError), Drawn():
        F.conv2d(torch.randn(1, 3, 99, 99), torch.randn(64, 64, 3, 3))


def test_a_loop_that_would_settle_on_its_own_numbers_ends() -> None:
    x, weight = torch.randn(512, 512), torch.eye(512) / 2
    with pytest.raises(RuntimeError, match="does not end"), Drawn(20):
        while float(x.norm()) > 1e-3:
            x = x @ weight


class Padded(nn.Module):
    """Reads a number of its data, and takes a part of a mask at positions where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[0], x.shape[1], dtype=torch.bool)
        if bool(x.sum() > 1e9):
            x = x + 1
        return x * (mask & ~mask[:, x.shape[1] :].any(1, keepdim=True))


def test_masks_alone_ask_for_no_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def shaken(*_: object) -> None:
        pytest.fail("not needed")

    monkeypatch.setattr(paths, "shake", shaken)
    record_paths(Padded().eval(), Inputs.of(torch.randn(2, 3)))
