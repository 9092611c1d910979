"""What a group loses with its channels, where only scores say: curves for `share_out`.

Every layer that makes the group's channels loses them, and each counts: one channel of a residual stream is a
channel of every block that adds to it. A channel counts as its score relative to the group's mean, over the share of
the group's importance that is still there: the first channels of two groups are compared as they are, and the last
ones of a group are dear. Summed up, a group of n channels that L layers make, and that keeps the share s of its
importance, has lost -L n log(s). `benchmarks/accuracy.py` (rows `surgeon l2`) says what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.field import Unit
from surgeon.budget.share import Curve
from surgeon.grouping import Group

Array = NDArray[np.float64]


def curves_of(units: Sequence[Unit]) -> dict[str, Curve]:
    """Group -> [(channels gone, loss)] for every count, from the scores of the units' groups."""
    return {
        group.name: _curve(scores, makers(group))
        for unit in units
        for group, scores in zip(unit.groups, unit.scores, strict=True)
    }


def makers(group: Group) -> int:
    """Layers whose filters a group's channels are; one where it is none's."""
    return len({m.state for m in group.members if m.role == "makes"}) or 1


def _curve(scores: Array, layers: int) -> Curve:
    ranked = np.sort(np.where(np.isfinite(scores), scores, 0.0))
    ranked = ranked - min(
        ranked[0], 0.0
    )  # scores may be below zero: only their order and distances count
    total = float(ranked.sum()) or 1.0
    kept = 1 - np.concatenate([[0.0], np.cumsum(ranked)]) / total
    loss = -layers * len(ranked) * np.log(np.maximum(kept, 1e-9))
    return list(enumerate(loss.tolist()))
