"""Which groups hold a limit up: what would be saved if they could go, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.mix import Mix
from surgeon.budget.work import Work
from surgeon.couple import Coupling

Mask = NDArray[np.bool_]
_MOST = 0.95  # of a group's channels, in the what-if


@dataclass(frozen=True)
class Holder:
    """A group of which more cannot go. `share`: of the original's latency (memory, size), what it still takes by
    itself; predicted."""

    name: str
    why: str
    share: float

    def __str__(self) -> str:
        return f"{self.name} ({self.share:.0%}: {self.why})"


def holders(
    coupling: Coupling, floor: Mask, predict: tuple[Work, Mix], left: Mapping[str, str]
) -> tuple[Holder, ...]:
    """Groups by what they hold up, most first; floor: the classes that are gone when all that may go has gone.

    left: why groups were left alone.
    """
    work, mix = predict
    now = mix.of(work.left(floor))
    found = []
    for group in coupling.groups:
        more = floor | coupling.removed(group.atoms[: int(group.size * _MOST)])
        saved = now - mix.of(work.left(more))
        why = left.get(group.name, "its last channels stay")
        found.append(Holder(group.name, why, saved))
    return tuple(sorted((h for h in found if h.share > 0.005), key=lambda h: -h.share))
