"""Criteria that compare the channels of a layer with each other: what others do as well may go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surgeon.grouping import Group
from surgeon.score.reduce import Array, Shares, shares
from surgeon.score.registry import criterion
from surgeon.score.weights import Weights


@criterion("fpgm", paper="He et al. 2019, arXiv 1811.00250")
def fpgm(group: Group, weights: Weights) -> Shares | None:
    """Sum of the Euclidean distances from a channel's weights to those of all others: the lowest is the
    geometric median, which the others stand in for.

    [members, channels], in units of the weights.
    """
    return _compared(group, weights, _distances)


@criterion("correlation", paper="Ayinde and Zurada 2018, arXiv 1802.07653")
def correlation(group: Group, weights: Weights) -> Shares | None:
    """One less the largest absolute correlation (cosine) of a channel's weights with another's.

    [members, channels] in [0, 1]: 0 is a copy, or a multiple, of another channel.
    """
    return _compared(group, weights, _apart)


def _compared(group: Group, weights: Weights, compare: Callable[[Array], Array]) -> Shares | None:
    rows = []
    for member in weights.members(group):
        vectors, channels = weights.rows(member, group.size)
        if len(channels) < 2:
            continue
        out, held = np.zeros(group.size), np.zeros(group.size, bool)
        out[channels], held[channels] = compare(vectors), True
        rows.append((out, held))
    return shares(rows, group.size) if rows else None


def _distances(vectors: Array) -> Array:
    """[n, d] -> sum of distances to all others [n]."""
    products = vectors @ vectors.T
    own = np.diag(products)
    squared = own[:, None] + own[None] - 2 * products
    squared[squared < 1e-12 * own.max(initial=0)] = 0  # what rounding left of equal vectors
    return np.sqrt(squared).sum(1)


def _apart(vectors: Array) -> Array:
    """[n, d] -> 1 - the largest |cosine| with another [n]; a vector of zeros is like any other."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    cosine = np.abs(unit @ unit.T)
    np.fill_diagonal(cosine, 0)
    out = 1 - cosine.max(1)
    return np.where(length[:, 0] > 0, np.clip(out, 0, 1), 0.0)
