"""A cut that the network's own config (Hugging Face) cannot say: planned again so that it can, where about as much goes.

Many configs have one number for the width and for heads x head_dim, and rotary frequencies are computed from head_dim. So the same
share goes of both, or whole heads go instead of a part of each. If that does not help, the first plan it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from surgeon.couple import Coupling
from surgeon.cut import Cut
from surgeon.errors import SurgeonError
from surgeon.grouping import Group
from surgeon.pipeline.own import as_much
from surgeon.pipeline.traced import Traced
from surgeon.plan import Plan
from surgeon.planning import removed_by

_T = TypeVar("_T")
_WHY = "its config does not say what a cut of head_dim leaves (--cut head_dim takes it there)"


class Unsaid(Exception):
    """A config cannot say this plan, and others are to be tried. `traced`: with all that was held and joined for it. `done`: its cut,
    if it was cut."""

    def __init__(self, traced: Traced, plan: Plan, done: Cut | None = None) -> None:
        super().__init__()
        self.traced, self.plan, self.done = traced, plan, done


def instead(traced: Traced, plan: Plan) -> bool:
    """Whether this plan stands in place of another one, and so is good only if the config says it. Raises Unsaid where it takes far less."""
    first = traced.own.first if traced.own is not None else None
    if first is not None and not as_much(traced.coupling, removed_by(traced.coupling, plan), first):
        raise Unsaid(traced, plan)
    return first is not None


def refuse_unsaid(traced: Traced, plan: Plan, done: Cut) -> None:
    """Raise Unsaid where the config does not say the cut, while `traced` asks for it."""
    if traced.own is not None and traced.own.said and done.unsaid:
        raise Unsaid(traced, plan, done)


def said(error: Unsaid, attempt: Callable[[Traced], _T]) -> _T | None:
    """What `attempt` (plan and cut) gives for the first plan that the config says; None where there is none."""
    for other in _others(error.traced, error.plan):
        try:
            return attempt(other)
        except (SurgeonError, Unsaid):  # one that is no good in any way is not wanted
            continue
    return None


def unasked(error: Unsaid) -> Traced:
    """What is known, for the first plan once more, whatever the config says of it; it is cut by now."""
    traced, own = error.traced, error.traced.own
    assert own is not None and error.done is not None
    return replace(traced, own=replace(own, said=False, done=(error.plan.keep, error.done)))


def _others(traced: Traced, plan: Plan) -> Iterator[Traced]:
    coupling, own = traced.coupling, traced.own
    assert own is not None
    removed = removed_by(coupling, plan)
    own = replace(own, first=removed)
    cut = [g for g in coupling.groups if removed[g.atoms].any()]
    alike = frozenset((*_widths(coupling, cut), *_equal(cut))) - {*coupling.joined}
    if alike:
        yield replace(traced, own=own, coupling=coupling.joining(sorted(alike, key=sorted)))
    parts = [g for g in cut if g.kind == "head_dim"]
    if own.kinds or not own.named.isdisjoint(g.name for g in parts):
        return
    for group in parts:
        coupling = coupling.holding(group.atoms, _WHY, -1)
    heads = [g for g in coupling.groups if g.kind == "heads" and g.why_not is None]
    alike = frozenset((*_widths(coupling, heads), *_equal([*cut, *heads])))
    coupling = coupling.joining(sorted(alike, key=sorted))
    note = f"{_WHY}, so heads go instead" if heads else _WHY
    yield replace(traced, own=own, coupling=coupling, notes=(*traced.notes, note))


def _equal(groups: list[Group]) -> Iterator[frozenset[str]]:
    """Groups of one size, factors of products by kind: one number may say them all."""
    sizes: dict[tuple[str, int], set[str]] = defaultdict(set)
    for group in groups:
        sizes[group.kind if group.partners else "", group.size].add(group.name)
    yield from (frozenset(names) for names in sizes.values() if len(names) > 1)


def _widths(coupling: Coupling, parts: list[Group]) -> Iterator[frozenset[str]]:
    """Each of these factors with a group on the other axis of a weight of theirs that is as wide as its product with another factor."""
    beside: dict[str, set[tuple[int, Group]]] = defaultdict(set)
    for group in coupling.groups:
        for member in group.members if group.why_not is None else ():
            beside[member.state].add((member.dim, group))
    for part in parts:
        products = {part.size * coupling.group(name).size for name in part.partners}
        others = ((m.dim, *found) for m in part.members for found in beside[m.state])
        for own, dim, other in others:
            if dim != own and other.size in products:
                yield frozenset((part.name, other.name))
