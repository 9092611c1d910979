"""Ridge least squares towards the weights that are there, from sums of products alone.

min |Y - X W'|^2 + strength |W - W0|^2 (Hoerl & Kennard 1970, with the prior at W0): where the data say
nothing, or nothing was lost, the weights stay as they are. The strength is the one that predicts a fifth of
the examples best from the others; weights that do not predict them better than W0 are not taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

_ROUNDING = 1e-10  # of the targets' square: what single precision leaves
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the mean square of a term


@dataclass
class Moments:
    """Sums of products over rows of data [rows, groups, terms] and targets [rows, groups, outputs], in float64.

    Memory: groups x terms x (terms + outputs), whatever the number of rows.
    """

    rows: int = 0
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: Tensor = field(default_factory=lambda: torch.zeros(()))
    yy: Tensor = field(default_factory=lambda: torch.zeros(()))
    x: Tensor = field(default_factory=lambda: torch.zeros(()))
    y: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, data: Tensor, target: Tensor) -> None:
        """More rows."""
        a, b = data.transpose(0, 1).double(), target.transpose(0, 1).double()
        self.rows += len(data)
        self.xx = self.xx + a.mT @ a
        self.xy = self.xy + a.mT @ b
        self.yy = self.yy + b.square().sum(1)
        self.x, self.y = self.x + a.sum(1), self.y + b.sum(1)

    def __add__(self, other: Moments) -> Moments:
        pairs = (
            (getattr(self, n), getattr(other, n)) for n in ("rows", "xx", "xy", "yy", "x", "y")
        )
        return Moments(*(a + b for a, b in pairs))

    def centred(self) -> tuple[Tensor, Tensor]:
        """xx and xy about the means: what is left for an intercept is taken out."""
        mean = self.x / self.rows
        return self.xx - mean[..., None] * self.x[:, None], self.xy - mean[..., None] * self.y[
            :, None
        ]

    def error(self, weight: Tensor, shift: Tensor) -> float:
        """Sum of squares of Y - (X W' + shift). weight [groups, outputs, terms], shift [groups, outputs]."""
        w = weight.mT
        fit = (w * (self.xx @ w)).sum(1) + 2 * shift * (self.x[:, None] @ w)[:, 0]
        fit = fit + self.rows * shift.square()
        cross = (w * self.xy).sum(1) + shift * self.y
        return float((self.yy - 2 * cross + fit).sum())


@dataclass(frozen=True)
class Fit:
    """weight [groups, outputs, terms], shift [groups, outputs] beside what was there; errors relative to
    the targets' own square, before and after, on rows that chose nothing but the strength."""

    weight: Tensor
    shift: Tensor
    strength: float
    before: float
    after: float


def fit(seen: Moments, held: Moments, start: Tensor, free: bool) -> Fit | None:
    """The best weights, None where those at the start predict the held rows as well.

    start [groups, outputs, terms]; free: whether a shift may be fitted. Targets are without the layer's own bias.
    """
    start = start.double()
    nothing = torch.zeros(start.shape[:2], dtype=torch.float64)
    before, total = held.error(start, nothing), max(float(held.yy.sum()), 1e-30)
    if before <= _ROUNDING * total:
        return None
    best: tuple[float, float] | None = None
    for strength in STRENGTHS:
        found = _solve(seen, start, strength, free)
        error = held.error(*found) if found else float("inf")
        if error < (best[0] if best else before * 0.999):
            best = error, strength
    if best is None:
        return None
    final = _solve(seen + held, start, best[1], free)
    if final is None:
        return None
    return Fit(*final, best[1], before / total, best[0] / total)


def _solve(m: Moments, start: Tensor, strength: float, free: bool) -> tuple[Tensor, Tensor] | None:
    xx, xy = m.centred() if free else (m.xx, m.xy)
    size = xx.shape[-1]
    level = xx.diagonal(0, -2, -1).mean(-1).clamp_min(1e-30)
    ridge = (strength * level)[:, None, None] * torch.eye(size, dtype=xx.dtype)
    factor, failed = torch.linalg.cholesky_ex(xx + ridge)
    if bool(failed.any()):
        return None
    step = torch.cholesky_solve(xy - xx @ start.mT, factor)
    weight = start + step.mT
    if not bool(weight.isfinite().all()):
        return None
    if not free:
        return weight, torch.zeros(weight.shape[:2], dtype=weight.dtype)
    return weight, (m.y - (m.x[:, None] @ weight.mT)[:, 0]) / m.rows
