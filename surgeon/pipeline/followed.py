"""A plan that neither surgery can follow: made again without the groups that go where it was not followed.

A network that torch.export refuses, or couples more than its own forward does, and whose own forward ties one width
to another (in a list, by an assert, in a reshape to the width of something else) is cut as far as its forward follows. What is left alone only grows, and a
reason names the op and the place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surgeon.couple import Coupling
from surgeon.cut import NoProgram, NotFollowed
from surgeon.errors import CheckFailed, OutOfReach
from surgeon.graph import Node
from surgeon.grouping import Group
from surgeon.pipeline.traced import Traced, TrainsOtherwise, with_sides
from surgeon.planning import removed_by

_T = TypeVar("_T")
_PLANS = 8  # each is scored and cut anew
NOT_FOLLOWED = "neither surgery follows"
GONE_WRONG = "cut there, the forward computes something else from"


def followed(
    traced: Traced, attempt: Callable[[Traced], _T], gone: Collection[str] = frozenset()
) -> _T:
    """What `attempt` (plan and cut) gives, with as few groups held as it takes, in a few plans at most.

    gone: groups that have lost channels by now, and so cannot be held. Raises the first NotFollowed where
    nothing is left to cut, no node can be named, or a group cannot be held; what the oracle found, where that was its reason.
    """
    first: NotFollowed | None = None
    base = traced
    for _ in range(_PLANS):
        try:
            return attempt(traced)
        except NotFollowed as error:
            first = first or error
            narrower = held(traced, error, gone)
            if narrower is None:
                break
            traced = narrower
        except TrainsOtherwise as error:  # what was held is seen again
            traced = base = replace(error.wider, notes=base.notes)
        except CheckFailed as error:
            # on a side of its decisions that was not looked at, perhaps
            wider = with_sides(base) if error.path else None
            if wider is None:
                raise
            traced = base = replace(wider, refusal=traced.refusal)
        except OutOfReach as error:  # what was asked needs what is held now
            if first is None:
                raise
            raise OutOfReach(_with_places(error.message, traced), first.hint) from first
    assert first is not None
    raise first.disproved or first


def _with_places(message: str, traced: Traced) -> str:
    """A message that says where nothing follows, unless it does by itself."""
    said = [note for note in traced.notes if note.startswith((NOT_FOLLOWED, GONE_WRONG))]
    return message if NOT_FOLLOWED in message else "; ".join((message, *said))


def held(traced: Traced, error: NotFollowed, gone: Collection[str] = frozenset()) -> Traced | None:
    """The same with the groups held that the plan cuts where it was not followed; None where that is nowhere,
    where one of them is `gone`, or where no group would be left.

    A line of code stands in the way wherever it runs, so that all nodes of it count. Where the plan cuts nothing there,
    what its operands were made of counts (a scale on a sum), or else (a size was read elsewhere) the modules that run it
    with all that they hold.
    """
    if error.at is None:
        return None
    coupling, at = traced.coupling, traced.graph.nodes[error.at]
    why = f"{GONE_WRONG if error.disproved else NOT_FOLLOWED} {at.op}"
    removed = removed_by(coupling, error.plan)
    line = [n for n in traced.graph.nodes if (n.op, n.source) == (at.op, at.source)]
    nodes = traced.graph.nodes
    made_of = ([pair] for pair in _before(nodes, at))  # the nearest that is cut
    for pairs in chain([[(n, n) for n in line]], made_of, [_inside(nodes, line)]):
        groups = _cut_at(coupling, pairs, removed)
        if groups:
            none = isinstance(error.refusal, NoProgram)  # else a narrower plan may fit the program
            narrower = replace(traced, refusal=error.refusal) if none else traced
            return None if groups.keys() & set(gone) else _without(narrower, at, groups, why)
    return None


def _before(nodes: list[Node], at: Node) -> Iterator[tuple[Node, Node]]:
    """The nodes that made what a node reads, as far as they stand beside it: in its module."""
    wanted = {*at.inputs}
    for node in reversed(nodes[: at.index]):
        if node.module == at.module and not wanted.isdisjoint(v for v in node.outputs if v):
            wanted.update(node.inputs)
            yield node, at


def _inside(nodes: list[Node], line: list[Node]) -> Iterator[tuple[Node, Node]]:
    """Every node of the modules that run a line, and of what they hold, with its node of the line."""
    owners = {n.module: n for n in reversed(line)}
    for node in nodes:
        owner = next((owners[path] for path in node.owners if path in owners), None)
        if owner is not None:
            yield node, owner


def _cut_at(
    coupling: Coupling, pairs: Iterable[tuple[Node, Node]], removed: NDArray[np.bool_]
) -> dict[str, tuple[Group, Node]]:
    """The groups that lose channels at a pair's first node, with the second of the first such pair."""
    number = np.full(coupling.classes.count, -1, np.int64)
    for k, group in enumerate(coupling.groups):
        number[group.atoms] = k
    found: dict[str, tuple[Group, Node]] = {}
    for node, place in pairs:
        here = coupling.at(node)
        for k in np.unique(number[here[removed[here]]]).tolist():
            if k >= 0:
                found.setdefault(coupling.groups[k].name, (coupling.groups[k], place))
    return found


def _without(
    traced: Traced, at: Node, groups: dict[str, tuple[Group, Node]], why: str
) -> Traced | None:
    coupling = traced.coupling
    for group, place in groups.values():
        coupling = coupling.holding(group.atoms, why, place.index)
    if all(g.why_not is not None for g in coupling.groups):
        return None
    few = ", ".join(list(groups)[:4]) + (f" ({len(groups)} groups)" if len(groups) > 4 else "")
    note = f"{why}, at {at.where}, so this stays whole: {few}"
    return replace(traced, coupling=coupling, notes=(*traced.notes, note))
