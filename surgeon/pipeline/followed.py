"""A plan that is not followed: made again without the groups that go where it was not.

A network whose own forward ties one width to another (in a list, by an assert, in a reshape to the width of something else) is cut
as far as its forward follows, where little stays whole for that, and keeps its class; else as a program. What two widths lose is made
equal before either stays (`joined.py`). One that torch.export refuses, or couples more than its own forward does, is cut as far as
its forward follows in any case. What is left alone only grows, and a reason names the op and the place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from surgeon.budget import Request
from surgeon.cut import NoProgram, NotFollowed, Spared
from surgeon.errors import CheckFailed, OutOfReach, SurgeonError
from surgeon.grouping import Group
from surgeon.pipeline.in_the_way import Found, in_the_way
from surgeon.pipeline.joined import joined
from surgeon.pipeline.own import Own
from surgeon.pipeline.said import Unsaid, said, unasked
from surgeon.pipeline.traced import Traced, TrainsOtherwise, with_sides
from surgeon.planning import removed_by
from surgeon.trace.program import Program

_T = TypeVar("_T")
_PLANS = 8  # each is scored and cut anew
_ALONE = 32  # the same, where there is no program: else all stays
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
        return _as_said(_of_its_own(traced, request, gone), attempt, gone)
    except _AsProgram:
        return _as_far(replace(traced, own=None), attempt, gone)


class _AsProgram(Exception):
    """Too much would stay whole for the network's class."""


def _as_said(traced: Traced, attempt: Callable[[Traced], _T], gone: Collection[str]) -> _T:
    try:
        return _as_far(traced, attempt, gone)
    except Unsaid as error:
        done = said(error, attempt)
        return _as_far(unasked(error), attempt, gone) if done is None else done


def _as_far(traced: Traced, attempt: Callable[[Traced], _T], gone: Collection[str]) -> _T:
    first: NotFollowed | None = None
    base = traced
    made = 0
    while made < (_ALONE if _alone(traced) else _PLANS):
        made += 1
        try:
            return attempt(traced)
        except NotFollowed as error:
            first = first or error
            narrower = joined(traced, error) or held(traced, error, gone)
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


def _alone(traced: Traced) -> bool:
    """Whether its own forward is all there is to cut."""
    return traced.refusal is not None or (traced.own is not None and traced.own.always)


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
    return own is not None and (
        own.always
        or own.rounds > 0
        # a program has no need of equal shares: it is cut as was first planned
        or bool(traced.coupling.joined)
        or bool(joined(traced, error))
        or held(traced, error) is not None
    )


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
    groups = next(filter(None, in_the_way(traced.coupling, error.at, removed)), None)
    if groups is None or groups.keys() & set(gone):
        return None
    known = _known(traced, error, removed, [g for g, _ in groups.values()])
    return None if known is None else _without(known, error, groups)


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


def _without(traced: Traced, error: NotFollowed, groups: Found) -> Traced | None:
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
