"""The next aim, from what was measured: limits on what only a measurement tells are approached from both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.align import Widths
from surgeon.budget.limit import Span
from surgeon.budget.meter import Aim, Aims
from surgeon.budget.mix import RATES, Mix, assumed, fitted
from surgeon.budget.work import KINDS

Array = NDArray[np.float64]

CLOSE = 0.97  # of a limit: from here on it is reached, and nothing more is wanted
_AIM = 0.985  # between the two, so that an interval of 1 % to each side meets both
_SAFER = 0.985  # of the last aim, where several rounds were still over
_NUDGE = 0.997  # of the last aim, where a plan came out again


@dataclass
class Search:
    """Limits as shares of the original's, by quantity, and what is known of how to meet them.

    `work`: of the original, by kind. `widths`: what its kernels make of widths. `amounts`: of the original, in seconds and bytes.
    """

    limits: Mapping[str, float]
    work: Array
    widths: Widths
    amounts: Mapping[str, float]
    seen: list[tuple[Array, Mapping[str, Span]]] = field(default_factory=list)
    _aim: dict[str, float] = field(default_factory=dict)
    _missed: int = 0

    def aims(self) -> Aims:
        """What to cut to next."""
        for what, limit in self.limits.items():
            self._aim.setdefault(what, limit * (_AIM if what == "latency" else 1.0))
        return Aims({w: Aim(self._aim[w], self._mix(w)) for w in self.limits}, self.widths)

    def learn(self, left: Array, shares: Mapping[str, Span]) -> None:
        """A cut that leaves so much work was measured."""
        self.seen.append((left, shares))
        self._missed = 0 if self.meets(shares) else self._missed + 1
        if self._missed >= 3:  # what is predicted stays too low: noise, or a step in the kernels
            self.safer()

    def safer(self, by: float = _SAFER) -> None:
        """Aim lower from now on."""
        self._aim = {what: aim * by for what, aim in self._aim.items()}

    def nudge(self, up: bool) -> None:
        """Aim a little higher, not above the limit itself, or a little lower: for a plan between two that are known."""
        by = 1 / _NUDGE if up else _NUDGE
        self._aim = {w: min(aim * by, self.limits[w]) for w, aim in self._aim.items()}

    def meets(self, shares: Mapping[str, Span]) -> bool:
        """Whether the upper end of each interval is within its limit."""
        return all(shares[what].high <= limit for what, limit in self.limits.items())

    def fill(self, shares: Mapping[str, Span]) -> float:
        """How much of the tightest limit is used: 1 is all of it."""
        return max(shares[what].value / limit for what, limit in self.limits.items())

    def _mix(self, what: str) -> Mix:
        work = dict(zip(KINDS, self.work.tolist(), strict=True))
        whole = None if what == "latency" else self.amounts.get(what)
        first = assumed(work, RATES[what], whole)
        seen = [(left, told[what]) for left, told in self.seen]
        return fitted(first, seen, self._aim[what], (self.work > 0).astype(float))
