"""What is limited, as numbers of a what-if: counted exactly, or predicted where only a measurement tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.cost import Cost
from surgeon.budget.limit import Limit
from surgeon.budget.mix import Mix
from surgeon.budget.work import Work
from surgeon.couple import Coupling

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Aim:
    """A quantity that is measured: its predicted share of the original's is to be `share` at most."""

    share: float
    mix: Mix


@dataclass(frozen=True)
class Aims:
    """What to aim at, by quantity ('latency'), predicted from `work`."""

    of: Mapping[str, Aim]
    work: Work


class Meter:
    """`of(removed)` by quantity, in FLOPs, parameters, or shares of the original's; `bounds` in the same."""

    def __init__(
        self, coupling: Coupling, limits: Mapping[str, Limit], aims: Aims | None = None
    ) -> None:
        self._aims = aims.of if aims else {}
        self._counted = tuple(limits)
        self._cost = Cost(coupling) if limits else None
        self._work = aims.work if aims and aims.of else None
        self._none = np.zeros(coupling.classes.count, bool)
        self.bounds: dict[str, float] = {
            what: limit.of(self.whole[what]) for what, limit in limits.items()
        }
        self.bounds |= {what: aim.share for what, aim in self._aims.items()}

    @cached_property
    def whole(self) -> dict[str, float]:
        """Of the network as it is."""
        return self.of(self._none)

    def of(self, removed: Mask) -> dict[str, float]:
        """Once the classes `removed` are gone."""
        found: dict[str, float] = {}
        if self._cost is not None:
            total = self._cost.total(removed)
            found |= {what: getattr(total, what) for what in self._counted}
        if self._work is not None:
            left = self._work.left(removed)
            found |= {what: aim.mix.of(left) for what, aim in self._aims.items()}
        return found

    def over(self, removed: Mask) -> float:
        """By how much the bounds are missed, each relative to the whole; 0 where all are met."""
        there = self.of(removed)
        return sum(
            max(there[what] - bound, 0) / max(self.whole[what], 1e-12)
            for what, bound in self.bounds.items()
        )
