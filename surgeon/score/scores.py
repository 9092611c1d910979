"""Criterion + groups -> one score a channel: computed, reduced over members, normalised, checked."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from surgeon.errors import BadInput, SurgeonError
from surgeon.grouping import Group
from surgeon.score.evidence import Evidence, no_data
from surgeon.score.reduce import REDUCTIONS, Array, normalised
from surgeon.score.registry import CRITERIA, Known
from surgeon.score.theirs import from_torch_pruning, is_torch_pruning
from surgeon.score.weights import Weights

_TAKES = "a criterion is f(group, evidence) or f(group, model) -> one score a channel"


def known(criterion: Any) -> Known:
    """A criterion by its name, of the user's own, or of torch-pruning. BadInput where it is none."""
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            close = difflib.get_close_matches(criterion, CRITERIA, 1, 0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise BadInput(f"no criterion '{criterion}'", f"{hint}there are {', '.join(CRITERIA)}")
        return CRITERIA[criterion]
    if is_torch_pruning(criterion):
        return Known(from_torch_pruning(criterion))
    if not callable(criterion):
        raise BadInput(f"a {type(criterion).__name__} is no criterion", _TAKES)
    return Known(criterion)


def refuse_without_data(criterion: Any, given: bool) -> None:
    """BadInput for a criterion that reads data where there are none."""
    found = known(criterion)
    if found.reads and not given:
        raise no_data(criterion if isinstance(criterion, str) else "", found.reads)


def scores_of(
    groups: Sequence[Group],
    evidence: Weights,
    criterion: Any,
    reduce: str = "mean",
    normalise: str | None = None,
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Scores of every group that may be cut, and the groups with NaN or infinite weights.

    A group of which the criterion says nothing (None) has no scores. Channels whose score is not finite are ranked
    below all others: they go first.
    """
    found = known(criterion)
    given = _second(found.function)
    if isinstance(evidence, Evidence):
        evidence.asked = criterion if isinstance(criterion, str) else _name(criterion)
    out: dict[str, Array] = {}
    broken: list[str] = []
    for group in groups:
        if group.why_not is not None:
            continue
        read: Any = evidence.model if given == "model" else evidence  # type: ignore[attr-defined]
        scores = _reduced(_given(found.function, group, read), group, reduce)
        if scores is None:
            continue
        finite = np.isfinite(scores)
        if not finite.all():
            broken.append(group.name)
        scores = normalised(scores, normalise)
        out[group.name] = np.where(finite, scores, -np.inf)
    return out, tuple(broken)


def _given(function: Any, group: Group, read: Any) -> Any:
    """The criterion's answer; what the user's own raises is named."""
    if any(function is each.function for each in CRITERIA.values()):
        return function(group, read)
    try:
        return function(group, read)
    except SurgeonError:
        raise
    except Exception as error:
        raise BadInput(
            f"criterion {_name(function)} failed on {group.name}: {type(error).__name__}: {error}",
            _TAKES,
        ) from error


def _reduced(scores: Any, group: Group, reduce: str) -> Array | None:
    if scores is None:
        return None
    if isinstance(scores, np.ma.MaskedArray) and scores.ndim == 2:
        scores = REDUCTIONS[reduce](scores)
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu()
    scores = np.asarray(scores, np.float64)
    if scores.shape != (group.size,):
        raise BadInput(
            f"criterion gave {scores.shape} scores for {group.size} channels of {group.name}",
            _TAKES,
        )
    return scores


def _second(function: Any) -> str:
    """The name of the second parameter; '' where it cannot be known."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ""
    return names[1] if len(names) > 1 else ""


def _name(criterion: Any) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)
