"""What tuning gave: the best epoch's network, and every epoch's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, score on the validation split, and the last step's learning rate."""

    number: int
    loss: float
    score: float
    lr: float


@dataclass(frozen=True)
class Step:
    """Where a run is, for who watches it."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Tuned:
    """`model` is the best epoch's, in eval mode; epoch 0 is the network as it was given.

    metric: what `score` is, on examples held out of the training data: 'top-1' (a share, higher is
    better) or 'loss' (lower is better). before: the score of the network as it was given.
    """

    model: nn.Module
    metric: str
    before: float
    score: float
    epoch: int
    history: tuple[Epoch, ...]
    options: dict[str, Any]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for tune.json."""
        said = {k: v for k, v in vars(self).items() if k not in ("model", "history", "notes")}
        return {**said, "history": [vars(e) for e in self.history], "notes": list(self.notes)}

    def summary(self) -> str:
        """One line for people."""
        best = f"epoch {self.epoch}" if self.epoch else "none was better than the start"
        return f"{self.metric} on validation: {self.before:.4f} -> {self.score:.4f} ({best})"
