"""A plan that is not followed: made again without the groups that go where it was not.

A network whose own forward ties one width to another (in a list, by an assert, in a reshape to the width of something else) is cut
as far as its forward follows, where little stays whole for that, and keeps its class; else as a program. One that torch.export
refuses, or couples more than its own forward does, is cut as far as its forward follows in any case. What is left alone only
grows, and a reason names the op and the place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surgeon.budget import Request
from surgeon.couple import Coupling
from surgeon.cut import NoProgram, NotFollowed, Spared
from surgeon.distinct import distinct
from surgeon.errors import CheckFailed, OutOfReach, SurgeonError
from surgeon.graph import Node
from surgeon.grouping import Group
from surgeon.pipeline.own import Own
from surgeon.pipeline.traced import Traced, TrainsOtherwise, with_sides
from surgeon.planning import removed_by
from surgeon.trace.program import Program

_T = TypeVar("_T")
_PLANS = 8  # each is scored and cut anew
OWN_FORWARD = "its own forward does not follow"
NOT_FOLLOWED = "neither surgery follows"
GONE_WRONG = "cut there, the forward computes something else from"


def followed(
    traced: Traced,
    attempt: Callable[[Traced], _T],
    request: Request,
    gone: Collection[str] = frozenset(),
) -> _T:
    """What `attempt` (plan and cut) gives, with as few groups held as it takes, in a few plans at most: first those by which the
    network keeps its class, where little is held for that.

    request: says what must go, and whether it may be as a program. gone: groups that have lost channels by now, and so cannot
    be held. Raises the first NotFollowed where nothing is left to cut, no node can be named, or a group cannot be held; what
    the oracle found, where that was its reason.
    """
    try:
        return _as_far(_of_its_own(traced, request, gone), attempt, gone)
    except _AsProgram:
        return _as_far(replace(traced, own=None), attempt, gone)


class _AsProgram(Exception):
    """Too much would stay whole for the network's class."""


def _as_far(traced: Traced, attempt: Callable[[Traced], _T], gone: Collection[str]) -> _T:
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
            traced = base = replace(error.wider, notes=base.notes, own=base.own)
        except CheckFailed as error:
            # on a side of its decisions that was not looked at, perhaps
            wider = with_sides(base) if error.path else None
            if wider is None:
                raise
            traced = base = replace(wider, refusal=traced.refusal)
        except OutOfReach as error:  # what was asked needs what is held now
            if first is None:
                raise
            reason = OutOfReach(_with_places(error.message, traced), first.hint)
            raise _ended(traced, first, reason) from first
    assert first is not None
    raise _ended(traced, first, first.disproved or first)


def _ended(traced: Traced, first: NotFollowed, reason: SurgeonError) -> Exception:
    """What to raise where nothing more can be held: the reason, unless a program was not looked for, and one would do."""
    if traced.own is None or traced.own.always or not isinstance(first.refusal, Spared):
        return reason
    return _AsProgram()


def _of_its_own(traced: Traced, request: Request, gone: Collection[str]) -> Traced:
    """The trace of a network that is to stay of its own class, if it can."""
    if isinstance(traced.model, Program):
        return replace(traced, own=None)
    return replace(traced, own=Own.of(request, traced.coupling, gone))


def spared(traced: Traced, error: NotFollowed) -> bool:
    """Whether a program is not looked for where the module does not follow: another plan is made, or none is wanted."""
    own = traced.own
    return own is not None and (own.always or own.rounds > 0 or held(traced, error) is not None)


def _with_places(message: str, traced: Traced) -> str:
    """A message that says where nothing follows, unless it does by itself."""
    said = [
        note for note in traced.notes if note.startswith((NOT_FOLLOWED, GONE_WRONG, OWN_FORWARD))
    ]
    return message if NOT_FOLLOWED in message else "; ".join((message, *said))


def held(traced: Traced, error: NotFollowed, gone: Collection[str] = frozenset()) -> Traced | None:
    """The same with the groups held that the plan cuts where it was not followed; None where that is nowhere,
    where one of them is `gone`, or where no group would be left.

    A line of code stands in the way wherever else it runs behind: every node counts that is this one of the line, but for those
    that the forward went by. Where the plan cuts nothing there, what its operands were made of counts (a scale on a sum), or
    else (a size was read elsewhere) the modules that run it: what they alone hold, or all that they do.
    """
    if error.at is None:
        return None
    removed = removed_by(traced.coupling, error.plan)
    groups = next(filter(None, _in_the_way(traced, error.at, removed)), None)
    if groups is None or groups.keys() & set(gone):
        return None
    known = _known(traced, error, removed, [g for g, _ in groups.values()])
    return None if known is None else _without(known, error, groups)


_Found = dict[str, tuple[Group, Node]]  # by name: a group, and the node that is its reason


def _in_the_way(traced: Traced, at: int, removed: NDArray[np.bool_]) -> Iterator[_Found]:
    """What is cut at a node and its like; where they were made, the nearest first; in the modules that run them."""
    coupling, nodes = traced.coupling, traced.graph.nodes
    line = [node for node in _alike(nodes, nodes[at]) if node.index >= at]
    yield _cut_at(coupling, ((n, n) for n in line), removed)
    for pair in _before(nodes, _reader(nodes, nodes[at])):
        yield _cut_at(coupling, [pair], removed)
    inside = _cut_at(coupling, _inside(nodes, line), removed)
    yield _only_theirs(inside)
    yield inside


def _known(
    traced: Traced, error: NotFollowed, removed: NDArray[np.bool_], groups: list[Group]
) -> Traced | None:
    """What is known before the next plan, in which these groups stay too; None where their staying is not worth it, or one of
    them was asked for."""
    if isinstance(error.refusal, NoProgram):  # else a narrower plan may fit the program
        traced = replace(traced, refusal=error.refusal)
    if traced.own is None or not isinstance(error.refusal, Spared):
        return replace(traced, own=None)
    own = traced.own.without(traced.coupling, removed, groups)
    return None if own is None else replace(traced, own=own)


def _alike(nodes: list[Node], at: Node) -> list[Node]:
    """The nodes that are in every run of their line what this one is in its own: the second view, say."""
    found: dict[Node, int] = {}
    last, owner = None, ""
    for node in nodes:
        if node.source != at.source:
            last = None
        elif last is None or not (_holds(owner, node.module) or _holds(node.module, owner)):
            last, owner = Counter[str](), node.module
        else:  # a layer that the line calls, or the one whose line it is
            owner = min(owner, node.module, key=len)
        if last is not None:
            found[node] = last[node.op]
            last[node.op] += 1
    return [node for node, nth in found.items() if (node.op, nth) == (at.op, found[at])]


def _holds(module: str, other: str) -> bool:
    """Whether a module is the other one, or holds it."""
    return module in ("", other) or other.startswith(f"{module}.")


def _only_theirs(groups: _Found) -> _Found:
    """Those that the module which runs the node holds alone."""
    return {
        name: (group, node)
        for name, (group, node) in groups.items()
        if all(m.state.startswith(f"{node.module}.") for m in group.members)
    }


def _reader(nodes: list[Node], at: Node) -> Node:
    """The op that a number which the code makes a tensor of goes to (a scale made of a width): the first that reads other values,
    too. Any other op is its own."""
    made = {*at.inputs, *(v for v in at.outputs if v)}
    for node in nodes[at.index + 1 :] if all(v.constant is not None for v in at.inputs) else ():
        if not made.isdisjoint(node.inputs):
            if not made.issuperset(node.inputs):
                return node
            made.update(v for v in node.outputs if v)
    return at


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
) -> _Found:
    """The groups that lose channels at a pair's first node, with the second of the first such pair."""
    number = np.full(coupling.classes.count, -1, np.int64)
    for k, group in enumerate(coupling.groups):
        number[group.atoms] = k
    found: _Found = {}
    for node, place in pairs:
        here = coupling.at(node)
        for k in distinct(number[here[removed[here]]]).tolist():
            if k >= 0:
                found.setdefault(coupling.groups[k].name, (coupling.groups[k], place))
    return found


def _without(traced: Traced, error: NotFollowed, groups: _Found) -> Traced | None:
    assert error.at is not None
    coupling, at, own = traced.coupling, traced.graph.nodes[error.at], traced.own
    astray = GONE_WRONG if error.disproved else NOT_FOLLOWED if own is None else OWN_FORWARD
    why = f"{astray} {at.op}"
    for group, place in groups.values():
        coupling = coupling.holding(group.atoms, why, place.index)
    if all(g.why_not is not None for g in coupling.groups):
        return None
    few = ", ".join(list(groups)[:4]) + (f" ({len(groups)} groups)" if len(groups) > 4 else "")
    note = f"{why}, at {at.where}, so this stays whole: {few}"
    if own is not None and not own.always:
        note += "; as a program it can be cut, too (--program)"
    notes = [*traced.notes, note]
    if own is None:
        notes.append(f"not as a program either: {error.refusal.message.splitlines()[0]}")
    return replace(traced, coupling=coupling, notes=(*dict.fromkeys(notes),))
