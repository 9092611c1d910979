"""What `shrink` gives back, as an object and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from surgeon.check import CheckResult
from surgeon.heal.recover import Recovery
from surgeon.measure.pair import BeforeAfter
from surgeon.metrics.overview import overview
from surgeon.pipeline.evaluated import Evaluation
from surgeon.plan import Plan
from surgeon.report.reach import Reach
from surgeon.sparse.dead import Dead
from surgeon.trace.inputs import Inputs

if TYPE_CHECKING:
    from surgeon.pipeline.limited import Limited


@dataclass(frozen=True)
class Cutting:
    """One of several cuts: `share` of what was asked is reached, `channels` of the original's are gone. `error`: of
    this cut, on the weights that it had. metric, before, score, epoch: what tuning gave, where there was any."""

    step: int
    share: float
    channels: int
    error: float | None = None
    metric: str | None = None
    before: float | None = None
    score: float | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Result:
    """What `shrink` gives back: a slim model in eval mode, its plan, and how it was proven."""

    model: nn.Module
    plan: Plan
    way: str
    inputs: Inputs
    why: str | None = None
    check: CheckResult | None = None
    measured: BeforeAfter | None = None
    reach: Reach | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    dead: Dead | None = None
    recovery: Recovery | None = None
    history: tuple[Cutting, ...] = ()
    evaluation: Evaluation | None = None
    limited: Limited | None = None
    network: Mapping[str, Any] | None = None  # of the original and what goes, as report.json has it

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Sparsity, compression, speed, memory, and what the outputs lost; None where nothing was counted."""
        seen = self.evaluation.as_dict() if self.evaluation else None
        return overview(self.measured.as_dict(), seen) if self.measured else None

    @property
    def report(self) -> dict[str, Any]:
        """Everything that report.json holds."""
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what was asked, what was reached, every group, the check, the measurements."""
        plan = self.plan.to_json()
        return {
            "model": plan["model"],
            "request": plan["request"],
            "reached": self.reached(),
            "way": self.way,
            "why": self.why,
            "check": self.check.as_dict() if self.check else None,
            "measured": self.measured.as_dict() if self.measured else None,
            "metrics": self.metrics,
            "reach": self.reach.as_dict() if self.reach else None,
            "groups": plan["groups"],
            "left": plan["left"],
            **({"network": self.network} if self.network else {}),
            **({"dead": self.dead.as_dict()} if self.dead else {}),
            **({"recovery": self.recovery.as_dict()} if self.recovery else {}),
            **({"steps": [vars(c) for c in self.history]} if self.history else {}),
            **({"limited": self.limited.as_dict()} if self.limited else {}),
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }

    def reached(self) -> dict[str, float]:
        """Shares removed: of channels in groups that were cut, of parameters and FLOPs where measured."""
        total = sum(g.size for g in self.plan.groups)
        out = {"channels": self.plan.removed / total if total else 0.0}
        if self.measured:
            before, after = self.measured.before, self.measured.after
            out["params"] = 1 - after.params / max(before.params, 1)
            out["flops"] = 1 - after.flops / max(before.flops, 1)
        return out

    def summary(self) -> str:
        """A few lines for people."""
        from surgeon.report.text import summary

        return summary(self)
