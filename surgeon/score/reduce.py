"""From one score a member and channel to one a channel (reductions), and on one scale (normalisers)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shares = np.ma.MaskedArray  # [members, channels]; masked where a member does not hold the channel


def _first(shares: Shares) -> Array:
    """Of the first member that holds the channel."""
    holder = np.argmin(np.ma.getmaskarray(shares), axis=0)
    return np.ma.getdata(shares)[holder, np.arange(shares.shape[1])]


# a channel that no member holds gets 0
REDUCTIONS: dict[str, Callable[[Shares], Array]] = {
    "mean": lambda s: np.ma.filled(s.sum(0), 0.0) / np.maximum(s.count(0), 1),
    "sum": lambda s: np.ma.filled(s.sum(0), 0.0),
    "max": lambda s: np.ma.filled(s.max(0), 0.0),
    "first": lambda s: np.where(s.count(0) > 0, _first(s), 0.0),
}


def none(scores: Array) -> Array:
    """As they are."""
    return scores


def mean(scores: Array) -> Array:
    """Relative to the group's mean magnitude: [channels], no unit."""
    return scores / _or_one(np.abs(scores).mean())


def largest(scores: Array) -> Array:
    """Relative to the group's largest magnitude: [channels] in [-1, 1], no unit."""
    return scores / _or_one(np.abs(scores).max())


def gaussian(scores: Array) -> Array:
    """Standard deviations from the group's mean: [channels], no unit."""
    return (scores - scores.mean()) / _or_one(scores.std())


def lamp(scores: Array) -> Array:
    """Each score over the sum of all that are not lower: [channels] in (0, 1] (Lee et al. 2021, arXiv 2010.07611).

    The largest gets 1, so that the best channel of every group is worth the same.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    rest = np.cumsum(ranked[::-1])[::-1]
    out = np.empty_like(scores)
    out[order] = np.divide(ranked, rest, out=np.zeros_like(ranked), where=rest != 0)
    return out


def _or_one(scale: float) -> float:
    return float(scale) or 1.0


NORMALISERS: dict[str, Callable[[Array], Array]] = {
    "none": none,
    "mean": mean,
    "max": largest,
    "gaussian": gaussian,
    "lamp": lamp,
}


def normalised(scores: Array, how: str | None) -> Array:
    """Finite scores on one scale; those that are not finite stay as they are."""
    finite = np.isfinite(scores)
    if how is None or not finite.any():
        return scores
    out = scores.copy()
    out[finite] = NORMALISERS[how](scores[finite])
    return out


def shares(rows: list[tuple[Array, NDArray[np.bool_]]], size: int) -> Shares:
    """Rows of (scores [size], where the member holds the channel) as one masked array."""
    scores = np.array([r[0] for r in rows]).reshape(len(rows), size)
    held = np.array([r[1] for r in rows], bool).reshape(len(rows), size)
    return np.ma.MaskedArray(scores, ~held)
