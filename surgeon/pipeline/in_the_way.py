"""Which groups stand in the way of a forward that stopped at a node: what the plan cuts there, and what led to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.couple import Coupling
from surgeon.distinct import distinct
from surgeon.graph import Node
from surgeon.grouping import Group

Found = dict[str, tuple[Group, Node]]  # by name: a group, and the node that is its reason
Mask = NDArray[np.bool_]


def in_the_way(coupling: Coupling, at: int, removed: Mask) -> Iterator[Found]:
    """What is cut at a node and its like; where they were made, the nearest first; where the module gives an op the same sizes, of
    one attribute perhaps; in the modules that run them."""
    nodes = coupling.graph.nodes
    line = _line(nodes, at)
    yield _cut_at(coupling, ((n, n) for n in line), removed)
    for pair in _before(nodes, _reader(nodes, nodes[at])):
        yield _cut_at(coupling, [pair], removed)
    yield _cut_at(coupling, ((n, nodes[at]) for n in _same_sizes(nodes, nodes[at])), removed)
    inside = _cut_at(coupling, _inside(nodes, line), removed)
    yield _only_theirs(inside)
    yield inside


def within(coupling: Coupling, at: int, removed: Mask) -> Found:
    """What is cut in the modules that run a node and its like."""
    nodes = coupling.graph.nodes
    return _cut_at(coupling, _inside(nodes, _line(nodes, at)), removed)


def _line(nodes: list[Node], at: int) -> list[Node]:
    """A node and its like, but for those that the forward went by."""
    return [node for node in _alike(nodes, nodes[at]) if node.index >= at]


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


def _only_theirs(groups: Found) -> Found:
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


def _same_sizes(nodes: list[Node], at: Node) -> Iterator[Node]:
    """The nodes of a module that were given the very numbers that this one was."""
    given = [*_numbers(at.args)]
    for node in nodes if given else ():
        if (node.module, node.op) == (at.module, at.op) and [*_numbers(node.args)] == given:
            yield node


def _numbers(args: Any) -> Iterator[int]:
    if type(args) is int:
        yield args
    for arg in args if isinstance(args, (list, tuple)) else ():
        yield from _numbers(arg)


def _inside(nodes: list[Node], line: list[Node]) -> Iterator[tuple[Node, Node]]:
    """Every node of the modules that run a line, and of what they hold, with its node of the line."""
    owners = {n.module: n for n in reversed(line)}
    for node in nodes:
        owner = next((owners[path] for path in node.owners if path in owners), None)
        if owner is not None:
            yield node, owner


def _cut_at(coupling: Coupling, pairs: Iterable[tuple[Node, Node]], removed: Mask) -> Found:
    """The groups that lose channels at a pair's first node, with the second of the first such pair."""
    number = np.full(coupling.classes.count, -1, np.int64)
    for k, group in enumerate(coupling.groups):
        number[group.atoms] = k
    found: Found = {}
    for node, place in pairs:
        here = coupling.at(node)
        for k in distinct(number[here[removed[here]]]).tolist():
            if k >= 0:
                found.setdefault(coupling.groups[k].name, (coupling.groups[k], place))
    return found
