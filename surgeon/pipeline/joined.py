"""Widths that a forward takes one for the other: they lose the same share, so that it follows.

Attention is often written so that heads x head_dim is the width of what comes in (`reshape(B, N, C)` with the C of
`x.shape`, `C // heads`). As tensors these are different channels, each of which may go by itself, and a program cuts them so. The
module's own forward follows only where as many of the one stay as of the other.
"""

from __future__ import annotations

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
    whole = _whole(coupling, removed, coupling.graph.nodes[error.at].module)
    pairs = {
        frozenset((a.name, b.name))
        for a, _ in here.values()
        for b, _ in near.values()
        if _apart(removed, whole, a, b) or _apart(removed, whole, b, a)
    }
    new = pairs.difference(coupling.joined)
    return replace(traced, coupling=coupling.joining(sorted(new, key=sorted))) if new else None


def _whole(coupling: Coupling, removed: Mask, module: str) -> set[int]:
    """Sizes of the factors of what a module works on that stay whole."""
    nodes = (node for node in coupling.graph.nodes if module in node.owners)
    values = {v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None}
    leaves = {leaf for v in values for dim in coupling.dims.get(v, ()) for leaf in dim}
    return {leaf.size for leaf in leaves if coupling.kept_size((leaf,), removed) == leaf.size}


def _apart(removed: Mask, whole: set[int], part: Group, product: Group) -> bool:
    """Whether one group was as wide as the other, or as that one with a factor that stays, and is not by this plan."""
    times, rest = divmod(product.size, part.size)
    if rest or not (times == 1 or times in whole) or product.name in (part.name, *part.partners):
        return False
    kept, left = (g.size - int(removed[g.atoms].sum()) for g in (part, product))
    return left != kept * times
