"""Positions that a network tells or reads stay what they are: classes of max(dim), rows of a table that shorter inputs leave out."""

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.couple import _Reader
from surgeon.errors import CheckFailed


class Told(nn.Module):
    """The number of the largest class, by one of the ops that tell it."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.first, self.head, self.op = nn.Linear(6, 12), nn.Linear(12, 10), op

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.first(x).relu())
        return getattr(torch, self.op)(y, 1)[1].double()


class Routed(nn.Module):
    """Experts, each for the rows that a gate sends it; the gate's weight is used too."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Linear(6, 5) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).max(-1)
        parts = (e(x) * (chosen == i)[:, None] for i, e in enumerate(self.experts))
        return sum(parts, torch.zeros(len(x), 5, dtype=x.dtype)) * weight[:, None]


class Longer(nn.Module):
    """A table of positions and a causal mask, both longer than the example."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(20, 16))
        self.register_buffer("mask", torch.ones(20, 20).tril())

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        y = self.first(x) + self.table[:n]
        return self.head((self.mask[:n, :n] @ y).relu())


@pytest.mark.parametrize("op", ["max", "min", "median", "mode", "cummax", "cummin"])
def test_what_tells_positions_keeps_them(op: str) -> None:
    torch.manual_seed(0)
    net, x = Told(op).eval(), torch.randn(64, 6)
    result = surgeon.shrink(net, x, 0.5, measure=False)
    assert set(result.plan.keep) == {"first.weight", "first.bias", "head.weight"}
    assert result.plan.keep["head.weight"].keys() == {1}
    left = {g.name: g.why for g in result.plan.left}
    assert "tells positions along it" in left["head"]


def test_values_alone_may_be_cut() -> None:
    class Largest(Told):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).relu()).max(1).values

    plan = surgeon.shrink(Largest("max").eval(), torch.randn(64, 6), 0.5, measure=False).plan
    assert len(plan.keep["head.weight"][0]) == 5


def test_experts_stay_where_the_gate_sends() -> None:
    torch.manual_seed(0)
    coupling = surgeon.trace(Routed().eval(), torch.randn(64, 6)).coupling
    gate = next(g for g in coupling.groups if g.name == "gate")
    assert gate.why_not is not None and "tells positions" in gate.why_not


def test_the_oracle_sees_positions_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the rule wrong, numbers among the kept would not be numbers among all."""
    monkeypatch.setattr(_Reader, "_told", lambda *_: None)
    torch.manual_seed(0)
    with pytest.raises(CheckFailed):
        surgeon.shrink(Told("max").eval(), torch.randn(64, 6), 0.5, measure=False)


def test_what_this_example_does_not_reach_stays() -> None:
    torch.manual_seed(0)
    net = Longer().eval()
    result = surgeon.shrink(net, torch.randn(2, 9, 5), 0.5, measure=False)
    assert result.plan.keep["table"].keys() == {1}
    assert "mask" not in result.plan.keep
    assert result.way == "module"
    longer = torch.randn(2, 20, 5)
    masked = surgeon.check(net, result.model, result.plan, longer)
    assert masked.error < 1e-9
    groups = {g.name: g for g in surgeon.trace(net, torch.randn(2, 9, 5)).groups}
    assert all(groups[name].why_not for name in ("table", "mask", "mask:in"))
