"""How a network is tuned: the options, with defaults that are meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import BadInput

OPTIMIZERS = ("auto", "sgd", "adamw")
SCHEDULES = ("cosine", "linear", "constant")
AUGMENTS = ("standard", "trivial", "none")
PRECISIONS = ("auto", "bf16", "fp32")
KEEPS = ("best", "last")


@dataclass(frozen=True)
class Tuning:
    """Options of `tune`.

    batch: examples a step, over all processes. optimizer: auto is SGD with Nesterov momentum for
    networks with batch norm and AdamW for the rest. lr: of a full step; 0.05 for SGD, 2e-4 for AdamW
    by default. warmup: share of the steps. smoothing: of labels; 0.1 without a teacher, 0 with one.
    hard: weight of the labels where there is a teacher. temperature: of its logits (Hinton 2015,
    arXiv 1503.02531). features: weight of the similarity of inner features (Tung and Mori 2019,
    arXiv 1907.09682). augment: what pictures go through. ema: decay of the averaged weights, 0 for none.
    validation: share of the data that is held out and picks the best epoch. keep: that epoch, or the last, as held out
    examples say nothing of new ones where the dense network was trained on them. patience: epochs without
    a better one after which it ends; None never. loss: the user's own, (output, labels) to a number.
    state: a file that is written after each epoch, from which a killed run goes on.
    """

    epochs: int = 10
    batch: int = 128
    optimizer: str = "auto"
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.9
    clip: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    smoothing: float | None = None
    hard: float = 0.5
    temperature: float = 2.0
    features: float = 1.0
    augment: str = "standard"
    precision: str = "auto"
    ema: float = 0.998
    validation: float = 0.1
    keep: str = "best"
    patience: int | None = None
    samples: int | None = None
    seed: int = 0
    workers: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    arch: str | None = None
    loss: Callable[..., Any] | None = None
    state: str | Path | None = None
    tensorboard: str | Path | None = None

    def __post_init__(self) -> None:
        for name, among in _AMONG.items():
            if getattr(self, name) not in among:
                raise BadInput(f"{name} {getattr(self, name)!r} is unknown", ", ".join(among))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadInput(f"{name} is {value}", f"from {low} to {high}")

    def facts(self) -> dict[str, Any]:
        """What decides the result, as plain data: not how it is shown, or where its state is."""
        said = {k: v for k, v in asdict(self).items() if k not in _SHOWN}
        loss = getattr(self.loss, "__qualname__", None) if self.loss else None
        return {**said, "loss": loss}


_SHOWN = ("state", "tensorboard", "workers", "loss")
_AMONG = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTS,
    "precision": PRECISIONS,
    "keep": KEEPS,
}
_MANY = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, _MANY),
    "batch": (1, _MANY),
    "lr": (0, _MANY),
    "weight_decay": (0, _MANY),
    "warmup": (0, 1),
    "smoothing": (0, 1),
    "hard": (0, 1),
    "temperature": (1e-3, _MANY),
    "features": (0, _MANY),
    "ema": (0, 1),
    "validation": (0, 0.9),
    "patience": (1, _MANY),
    "samples": (2, _MANY),
    "workers": (0, 1024),
}
