"""The next aim, from what was measured: limits on what only a measurement tells are approached from both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.limit import Span
from surgeon.budget.meter import Aim, Aims
from surgeon.budget.mix import RATES, Mix, assumed, fitted
from surgeon.budget.pace import Paces
from surgeon.budget.work import KINDS, Work

Mask = NDArray[np.bool_]

CLOSE = 0.97  # of a limit: from here on it is reached, and nothing more is wanted
_AIM = 0.985  # between the two, so that an interval of 1 % to each side meets both
_SAFER = 0.985  # of the last aim, where several rounds were still over
_NUDGE = 0.997  # of the last aim, where a plan came out again


@dataclass
class Search:
    """Limits as shares of the original's, by quantity, and what is known of how to meet them.

    `work`: of the network. `amounts`: of the original, in seconds and bytes. `shares`: of its latency, what each
    module takes, where its runtime tells that.
    """

    limits: Mapping[str, float]
    work: Work
    amounts: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)
    seen: list[tuple[Mask, Mapping[str, Span]]] = field(default_factory=list)
    _aim: dict[str, float] = field(default_factory=dict)
    _missed: int = 0
    _paces: Paces | None = None

    def __post_init__(self) -> None:
        names = tuple(sorted(self.work.modules & set(self.shares)))
        if names:
            self._follow(Paces(names, np.array([self.shares[n] for n in names])))

    def aims(self) -> Aims:
        """What to cut to next."""
        for what, limit in self.limits.items():
            self._aim.setdefault(what, limit * (_AIM if what == "latency" else 1.0))
        return Aims({w: Aim(self._aim[w], self._mix(w)) for w in self.limits}, self.work)

    def learn(
        self, removed: Mask, shares: Mapping[str, Span], times: Mapping[str, float] | None = None
    ) -> None:
        """A cut that removes these classes was measured; times: of modules, relative to the original's, where told."""
        self.seen.append((removed, shares))
        if self._paces is not None and times:
            names = self._paces.names
            told = np.array([times.get(name, np.nan) for name in names])
            self._follow(self._paces.learnt(self.work.modules_left(names, removed), told))
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

    def _follow(self, paces: Paces) -> None:
        self._paces, self.work = paces, self.work.paced(paces)

    def _mix(self, what: str) -> Mix:
        work = dict(zip(KINDS, self.work.whole.tolist(), strict=True))
        timed = 1.0 if self._paces is not None else None
        first = assumed(work, RATES[what], timed if what == "latency" else self.amounts.get(what))
        seen = [(self.work.left(removed), told[what]) for removed, told in self.seen]
        return fitted(first, seen, self._aim[what], (self.work.whole > 0).astype(float))
