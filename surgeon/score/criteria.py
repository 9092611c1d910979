"""Criteria that need no data: weight norms and chance. A new one is a function and a decorator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from surgeon.errors import BadInput
from surgeon.grouping import Group
from surgeon.score.weights import Weights

Array = NDArray[np.float64]
Criterion = Callable[[Group, Weights], Array]
CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register `f(group, weights) -> scores [channels]`; a name can be taken once."""

    def register(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"criterion {name} exists already")
        CRITERIA[name] = function
        return function

    return register


@criterion("l1")
def l1(group: Group, weights: Weights) -> Array:
    """Sum of absolute weights of each channel, mean over layers (Li et al. 2017, arXiv 1608.08710)."""
    return _norm(group, weights, 1)


@criterion("l2")
def l2(group: Group, weights: Weights) -> Array:
    """Euclidean norm of each channel's weights, mean over layers (DepGraph, arXiv 2301.12900)."""
    return _norm(group, weights, 2)


@criterion("random")
def random(group: Group, weights: Weights) -> Array:
    """Uniform in [0, 1): the baseline that any criterion must beat."""
    return weights.random.random(group.size)


def _norm(group: Group, weights: Weights, p: int) -> Array:
    """Mean over members of the p-norm of what each channel has there."""
    total, count = np.zeros(group.size), np.zeros(group.size)
    for member in weights.members(group):
        sums = weights.power_sums(member, p)[member.at]
        total += np.bincount(member.channel, sums, group.size) ** (1 / p)
        count += np.bincount(member.channel, minlength=group.size) > 0
    return total / np.maximum(count, 1)


def scores_of(
    groups: Sequence[Group], weights: Weights, name: str | Criterion
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Scores of every group that may be cut, and the groups with NaN or infinite weights.

    Channels whose score is not finite are ranked below all others: they go first.
    """
    function = CRITERIA.get(name) if isinstance(name, str) else name
    if function is None:
        raise BadInput(f"no criterion '{name}'", f"there are {', '.join(CRITERIA)}")
    out: dict[str, Array] = {}
    broken: list[str] = []
    for group in groups:
        if group.why_not is not None:
            continue
        scores = np.asarray(function(group, weights), np.float64)
        if scores.shape != (group.size,):
            raise BadInput(
                f"criterion gave {scores.shape} scores for {group.size} channels of {group.name}"
            )
        finite = np.isfinite(scores)
        if not finite.all():
            broken.append(group.name)
        out[group.name] = np.where(finite, scores, -np.inf)
    return out, tuple(broken)
