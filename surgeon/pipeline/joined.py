"""Widths that a forward takes one for the other: they lose the same share, so that it follows.

Attention is often written so that heads x head_dim is the width of what comes in (`reshape(B, N, C)` with the C of
`x.shape`, `C // heads`). As tensors these are different channels, each of which may go by itself, and a program cuts them so. The
module's own forward follows only where as many of the one stay as of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from surgeon.couple import Coupling
from surgeon.cut import NotFollowed
from surgeon.grouping import Group
from surgeon.pipeline.in_the_way import Mask, in_the_way, within
from surgeon.pipeline.traced import Traced
from surgeon.planning import removed_by


def joined(traced: Traced, error: NotFollowed) -> Traced | None:
    """The same with widths joined where the forward stopped; None where no node can be named, or there are none that the plan makes
    unequal and that are not joined by now.

    Of those that are cut there, one is the other's equal, or its product with a factor that stays. That is a guess, which the next
    plan tries: what it cuts is as right as any other.
    """
    if error.at is None:
        return None
    coupling = traced.coupling
    removed = removed_by(coupling, error.plan)
    here = next(filter(None, in_the_way(coupling, error.at, removed)), {})
    near = {**here, **within(coupling, error.at, removed)}
    pairs = {
        frozenset((a.name, b.name))
        for a, _ in here.values()
        for b, _ in near.values()
        if _apart(coupling, removed, a, b) or _apart(coupling, removed, b, a)
    }
    new = pairs.difference(coupling.joined)
    return replace(traced, coupling=coupling.joining(sorted(new, key=sorted))) if new else None


def _apart(coupling: Coupling, removed: Mask, part: Group, whole: Group) -> bool:
    """Whether one group was as wide as the other, or that one with a factor that stays, and is not by this plan."""
    if whole.name in (part.name, *part.partners):
        return False
    kept = {g.name: g.size - int(removed[g.atoms].sum()) for g in (part, whole)}
    times = _times(coupling, removed, part)
    return any(
        whole.size == part.size * n and kept[whole.name] != kept[part.name] * n for n in times
    )


def _times(coupling: Coupling, removed: Mask, part: Group) -> Iterator[int]:
    yield 1
    for name in part.partners:
        other = coupling.group(name)
        if not removed[other.atoms].any():
            yield other.size
