"""Which channel of a cut network is which of the network that it was cut from.

By the elements of the tensors that a group reaches, and where each of them stood before the cut. Names, orders
and sizes say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from surgeon.couple import Coupling
from surgeon.distinct import distinct
from surgeon.grouping import Group, Member
from surgeon.plan import Keep

Ids = NDArray[np.int64]


def descent(whole: Coupling, slim: Coupling, keep: Keep) -> dict[str, tuple[Group, Ids]]:
    """Group of `whole` -> the group of `slim` that is left of it, and the channel of `whole` that each of its
    channels was.

    keep: what the cut kept. Groups that may not be cut any more, or of which nothing is found, are left out.
    """
    places: dict[tuple[str, int], list[tuple[Group, Ids]]] = {}
    for group in whole.groups:
        for member in group.members:
            size = whole.graph.state[member.state].shape[member.dim]
            found = places.setdefault((member.state, member.dim), [])
            found.append((group, _by_position(member, size)))
    out: dict[str, tuple[Group, Ids]] = {}
    for group in slim.groups:
        if group.why_not is None:
            found = sorted(_ancestors(group, places, keep), key=lambda x: x[0].kind != group.kind)
            if found:
                out.setdefault(found[0][0].name, (group, found[0][1]))
    return out


def _ancestors(
    group: Group, places: dict[tuple[str, int], list[tuple[Group, Ids]]], keep: Keep
) -> Iterator[tuple[Group, Ids]]:
    """Groups whose channels the group's are, each one by itself, wherever both are seen."""
    member = group.members[0]
    for candidate, _ in places.get((member.state, member.dim), ()):
        channels = np.full(group.size, -1, np.int64)
        if all(_agrees(m, candidate, places, keep, channels) for m in group.members) and (
            len(distinct(channels)) == group.size and channels.min() >= 0
        ):
            yield candidate, channels


def _agrees(
    member: Member,
    candidate: Group,
    places: dict[tuple[str, int], list[tuple[Group, Ids]]],
    keep: Keep,
    channels: Ids,
) -> bool:
    """Whether this tensor says the same channel for each; fills `channels` where it says more. A tensor that the
    candidate does not reach says nothing."""
    found = places.get((member.state, member.dim), ())
    tables = [table for group, table in found if group is candidate]
    if not tables:
        return True
    kept = keep.get(member.state, {}).get(member.dim)
    at = member.at if kept is None else np.asarray(kept, np.int64)[member.at]
    was = tables[0][at]
    known = channels[member.channel]
    if (was < 0).any() or ((known >= 0) & (known != was)).any():
        return False
    channels[member.channel] = was
    return bool((channels[member.channel] == was).all())


def _by_position(member: Member, size: int) -> Ids:
    """Position -> channel, -1 where the group has none."""
    table = np.full(size, -1, np.int64)
    table[member.at] = member.channel
    return table
