"""Where a group's channels are seen in a forward: found through the coupled graph, never by a layer's class.

A point is one dimension of a real tensor. Channels that a layer takes are looked at in what it is given,
so after the batch norm and the nonlinearity before it. Channels that no layer takes (queries and keys, which meet in a product)
are looked at in what the layer that makes them gives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgeon.axes import Dim, size_of
from surgeon.couple import Coupling
from surgeon.graph import Graph, Node, Value
from surgeon.grouping import Group, Member

Ids = NDArray[np.int64]
Names = tuple[str, ...]
Spot = tuple[int, bool, int]  # node; what it takes (True) or gives; which tensor of these


@dataclass(frozen=True, eq=False)
class Point:
    """One dimension of a tensor, as a member of a group meets it; `spots` are where (several: a layer that runs several times).

    Position `at[i]` of that dimension, of `extent`, belongs to channel `channel[i]`. taken: a layer reads them there.
    source: equal for points where the same numbers are.
    """

    group: str
    size: int  # channels of the group
    member: Member
    taken: bool
    dim: int
    extent: int
    at: Ids
    channel: Ids
    spots: tuple[Spot, ...]
    source: tuple[tuple[int, int], ...]

    def per_channel(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[extent] -> the mean over each channel's positions [channels], 0 where it has none."""
        total = np.bincount(self.channel, values[self.at], self.size)
        return total / np.maximum(np.bincount(self.channel, minlength=self.size), 1)

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which channels are seen here."""
        return np.bincount(self.channel, minlength=self.size) > 0


class Finder:
    """Finds the points of any group of a coupling."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.nodes = {n.index: n for n in coupling.graph.forward}
        self._uses: dict[tuple[str, int, str], list[int]] = {}
        for use in coupling.uses:
            found = self._uses.setdefault((use.state, use.dim, use.role), [])
            if use.node in self.nodes and use.node not in found:
                found.append(use.node)

    @cached_property
    def of_state(self) -> dict[Value, Names]:
        """Values that follow from the state alone, with the names of what they are made from."""
        return derived(self.coupling.graph)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {g.name: k for k, g in enumerate(self.coupling.groups)}

    @cached_property
    def _owner(self) -> tuple[Ids, Ids]:
        """Class -> number of its group and channel there, -1 for none."""
        classes = self.coupling.classes
        group, channel = np.full(classes.count, -1), np.full(classes.count, -1)
        for k, g in enumerate(self.coupling.groups):
            group[g.atoms], channel[g.atoms] = k, np.arange(g.size)
        return group, channel

    def points(self, group: Group) -> tuple[tuple[Point, ...], ...]:
        """Where layers take the channels, where they are made, and where anything else of the group is used."""
        number, tiers = self._number[group.name], []
        for role in ("takes", "makes", "along"):
            members = [m for m in group.members if m.role == role]
            found = [p for m in members for p in self._points(group, number, m, role == "takes")]
            tiers.append(tuple(found))
        return tuple(tiers)

    def _points(self, group: Group, number: int, member: Member, taken: bool) -> Iterator[Point]:
        known: dict[tuple[int, bytes, bytes], Point] = {}
        for index, place, value, d, dim in self._dims(member, taken):
            at, channel = self._positions(dim, number)
            if not len(at):
                continue
            key = (d, at.tobytes(), channel.tobytes())
            old = known.get(key)
            now = (value.index, self._writes(value, index + (not taken)))
            known[key] = Point(
                group.name,
                group.size,
                member,
                taken,
                d,
                size_of(dim),
                at,
                channel,
                (*(old.spots if old else ()), (index, taken, place)),
                (*(old.source if old else ()), now),
            )
        yield from known.values()

    def _dims(self, member: Member, taken: bool) -> Iterator[tuple[int, int, Value, int, Dim]]:
        """Dimensions of data that nodes with this member take, or give: node, place, value, number of the dimension."""
        for index in self._uses.get((member.state, member.dim, member.role), ()):
            node = self.nodes[index]
            values = node.inputs if taken else [v for v in node.outputs if v is not None]
            for place, value in enumerate(values):
                dims = self.coupling.dims.get(value, ()) if value not in self.of_state else ()
                yield from ((index, place, value, d, dim) for d, dim in enumerate(dims))

    def _writes(self, value: Value, before: int) -> int:
        """How often a value was made or written in place before a node."""
        return bisect_left(self._made.get(value, []), before)

    @cached_property
    def _made(self) -> dict[Value, list[int]]:
        found: dict[Value, list[int]] = {}
        for node in self.coupling.graph.forward:
            for value in node.outputs:
                if value is not None:
                    found.setdefault(value, []).append(node.index)
        return found

    def _positions(self, dim: Dim, number: int) -> tuple[Ids, Ids]:
        """Positions of a dimension that belong to a group, and to which of its channels."""
        ats, channels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        outer, inner = 1, size_of(dim)
        classes, (owner, where) = self.coupling.classes, self._owner
        for leaf in dim:
            inner //= leaf.size
            if leaf.ids is not None:
                rows = np.arange(leaf.size)
                reach = classes.atoms_of(rows, classes.label[leaf.ids], leaf.size).tocoo()
                mine = owner[reach.col] == number
                here, channel = reach.row[mine].astype(np.int64), where[reach.col[mine]]
                grid = np.arange(outer)[:, None, None] * (leaf.size * inner)
                grid = grid + here[None, :, None] * inner + np.arange(inner)
                ats.append(grid.ravel())
                channels.append(np.broadcast_to(channel[None, :, None], grid.shape).ravel())
            outer *= leaf.size
        at, channel = np.concatenate(ats), np.concatenate(channels)
        order = np.argsort(at, kind="stable")
        return at[order], channel[order]


def derived(graph: Graph) -> dict[Value, Names]:
    """Values that follow from state tensors alone (a transposed weight) -> the names of these."""
    names: dict[Value, Names] = {}
    for _ in _walk(graph, names):
        pass
    return names


def _walk(
    graph: Graph, names: dict[Value, Names]
) -> Iterator[tuple[Node, tuple[Names | None, ...]]]:
    """Every node with what each of its tensors is made from; `names` is kept up."""
    names.update({v: v.state[:1] for v in graph.state.values()})
    for node in graph.forward:
        own = tuple([names.get(v) for v in node.inputs])
        yield node, own
        made = made_of(own)
        for value in node.outputs:
            if value is None:
                continue
            if made:
                names.setdefault(value, made)
            else:
                names.pop(value, None)  # data were written into it


def made_of(inputs: tuple[Names | None, ...]) -> Names | None:
    """What an op's results are made from, where all that it takes follows from state."""
    if not inputs or any(names is None for names in inputs):
        return None
    return tuple(dict.fromkeys(n for names in inputs for n in names or ()))


def anchors(graph: Graph) -> dict[tuple[str, tuple[Names | None, ...], int], Node]:
    """Ops that take state and data: by their op, the state that they take, and how often that was before.

    So an op of another run is known again, whatever the data make the forward do beside it.
    """
    seen: dict[tuple[str, tuple[Names | None, ...]], int] = {}
    found = {}
    for node, own in _walk(graph, {}):
        if is_anchor(own):
            key = (node.op, own)
            found[(*key, seen.get(key, 0))] = node
            seen[key] = seen.get(key, 0) + 1
    return found


def is_anchor(own: tuple[Names | None, ...]) -> bool:
    """Whether an op takes both state and data."""
    return any(n is not None for n in own) and any(n is None for n in own)
