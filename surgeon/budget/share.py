"""How much of each group goes, from measured losses: the cheapest step first, until the limit is met.

Curves say what the network's outputs lose when a unit alone loses k channels; losses of different units are
added. Each step takes from the unit whose next channels cost the least loss for what they save.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from surgeon.budget.field import FLOOR, Unit

Curve = Sequence[tuple[int, float]]  # (channels gone, loss), from (0, 0) on
_STEPS = 16  # of a whole unit


def share_out(
    units: Sequence[Unit],
    curves: Mapping[str, Curve],
    saved: Callable[[Sequence[int]], float],
    enough: Callable[[Sequence[int]], bool],
    start: Sequence[int],
    still: Sequence[bool],
) -> list[int]:
    """Channels that each unit loses (of its smallest group).

    saved: what counts leave over, in the unit of the limit (less is better). enough: whether the limit is
    met. start: counts to begin with; units that are `still` keep theirs. Where the limit cannot be met, the most that may go.
    """
    counts = list(start)
    left = saved(counts)
    asked: list[tuple[float, int, int, int]] = []  # cost of a step, unit, count then, when asked

    def ask(k: int, when: int) -> None:
        after = _next(units[k], counts[k])
        if after is not None:
            less = left - saved([*counts[:k], after, *counts[k + 1 :]])
            more = _loss(units[k], curves, after) - _loss(units[k], curves, counts[k])
            heapq.heappush(asked, (more / max(less, 1e-12), k, after, when))

    for k, stays in enumerate(still):
        if not stays:
            ask(k, 0)
    steps = 0
    while asked and not enough(counts):
        _, k, after, when = heapq.heappop(asked)
        if when < steps:  # what it saves has changed since
            ask(k, steps)
            continue
        counts[k], steps = after, steps + 1
        left = saved(counts)
        ask(k, steps)
    return counts


def _next(unit: Unit, count: int) -> int | None:
    """The next count to try: a sixteenth more, in steps that keep multiples of the unit's own."""
    most = unit.size - max(int(np.ceil(unit.size * FLOOR)), 1)
    kept = unit.grid.down(unit.size - count - max(unit.size // _STEPS, 1))
    return unit.size - kept if kept > 0 and unit.size - kept <= most else None


def _loss(unit: Unit, curves: Mapping[str, Curve], count: int) -> float:
    """Of all the unit's groups, between the measured points on a line."""
    total = 0.0
    for group in unit.groups:
        at, loss = zip(*curves[group.name], strict=True)
        total += float(np.interp(count * (group.size // unit.size), at, loss))
    return total
