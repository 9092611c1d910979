"""How the time of each module follows its work, as a runtime's profile told it of the original and of the cuts that were measured.

Kernels that are predicted from layers timed by themselves come out too fast: in a network they also convert layouts,
start, and wait for memory. A search that takes the cheapest step first takes just those steps that are predicted too
low. What a module took after a cut says what its next one is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CUT = 0.95  # of its work is left in a module of which a measurement tells anything
_SAME = 3  # decimals: so near to each other, what is left of a module's work is the same


@dataclass(frozen=True, eq=False)
class Paces:
    """`names`: modules; `shares`: of the original's latency, what each takes; `seen`: of every cut that was measured,
    the work that is left of each module, and the time that it took, relative to the original's. Arrays are [modules].
    """

    names: tuple[str, ...]
    shares: Array
    seen: tuple[tuple[Array, Array], ...] = ()

    def learnt(self, work: Array, times: Array) -> Paces:
        """With one more cut; a time that is not known is nan."""
        return replace(self, seen=(*self.seen, (work, times)))

    def times(self, work: Array) -> Array:
        """Of each module, relative to the original's, when so much of its work is left.

        Between what was seen, on a line. Below it, towards a part that stays whatever is cut: the module's own as
        its deepest cut tells it, or that of the others where it was not cut yet.
        """
        at, time = self._lines
        rows = np.arange(len(self.names))
        upper = np.clip((at <= work[:, None]).sum(1), 1, at.shape[1] - 1)
        x0, x1 = at[rows, upper - 1], at[rows, upper]
        y0, y1 = time[rows, upper - 1], time[rows, upper]
        share = np.clip((work - x0) / np.maximum(x1 - x0, 1e-9), 0.0, 1.0)
        return y0 + share * (y1 - y0)

    @cached_property
    def _lines(self) -> tuple[Array, Array]:
        """Points of each module, [modules, points], from none of its work to all of it; the last is there as often as needed."""
        told = [self._points(k) for k in range(len(self.names))]
        stays = self._stays(told)
        rows = []
        for points in told:
            x, y = points[0] if points else (0.0, stays)
            start = max((y - x) / (1 - x), 0.0)
            rows.append([(0.0, start), *points, (1.0, 1.0)])
        longest = max((len(row) for row in rows), default=2)
        table = np.array([row + [(1.0, 1.0)] * (longest - len(row)) for row in rows])
        table = table.reshape(len(rows), longest, 2)
        return table[:, :, 0], table[:, :, 1].clip(max=1.0)

    def _points(self, module: int) -> list[tuple[float, float]]:
        """(work, time) of one module from its deepest cut on; what was seen twice is averaged."""
        found: dict[float, list[float]] = {}
        for work, times in self.seen:
            if work[module] < _CUT and np.isfinite(times[module]):
                found.setdefault(round(float(work[module]), _SAME), []).append(float(times[module]))
        return _rising([(x, float(np.mean(y))) for x, y in sorted(found.items())])

    def _stays(self, told: list[list[tuple[float, float]]]) -> float:
        """Of modules that were cut, the part of their time that would stay, mean by time."""
        pairs = [
            (share, (points[0][1] - points[0][0]) / (1 - points[0][0]))
            for share, points in zip(self.shares, told, strict=True)
            if points
        ]
        if not pairs:
            return 0.0
        shares, stays = np.array(pairs).T
        return float(np.clip(shares @ stays / max(shares.sum(), 1e-12), 0.0, 1.0))


def _rising(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """More work takes no less time: neighbours that say otherwise share their mean (pool adjacent violators)."""
    pools: list[list[float]] = []
    for _, time in points:
        pools.append([time])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    times = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [(work, time) for (work, _), time in zip(points, times, strict=True)]
