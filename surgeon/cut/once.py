"""A graph in which values are written but once: an op in place gives a new value, as the op that copies would."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from surgeon.cut.flow import Unfoldable, is_movement
from surgeon.graph import Graph, Node, Value


def written_once(graph: Graph, writes: Collection[int]) -> Graph:
    """The same graph, each node with its index. writes: the nodes that give new values. Raises Unfoldable where what was
    there before such a write is read after it by another name: a view that was made before, or what it was a view of."""
    if not writes:
        return graph
    names = _Names(frozenset(writes))
    nodes = [names.renamed(node) for node in graph.nodes]
    return replace(graph, nodes=nodes, outputs=tuple(names.now(v) for v in graph.outputs))


class _Names:
    """What values are called after what has run. `whose` says of a view what it is a view of, `written` what was
    written last in such a tensor, by which name, and by which node."""

    def __init__(self, writes: frozenset[int]) -> None:
        self.writes = writes
        self.new: dict[Value, Value] = {}
        self.made: dict[Value, int] = {}
        self.whose: dict[Value, Value] = {}
        self.written: dict[Value, tuple[Value, int]] = {}

    def now(self, value: Value) -> Value:
        return self.new.get(value, value)

    def renamed(self, node: Node) -> Node:
        """The node with the names of now, and with a new one for what it writes."""
        for value in node.inputs:
            self._still_there(value, node)
        args, kwargs = tree_map_only(Value, self.now, (node.args, node.kwargs))
        op, target = node.op, node.target
        copying = _copying(node) if node.index in self.writes else None
        if copying is not None and node.outputs[0] is node.arg(0):
            op, target = copying
            self._write(node.args[0], node)
        else:
            self._make(node)
        outputs = tuple(v if v is None else self.now(v) for v in node.outputs)
        return Node(node.index, op, target, args, kwargs, outputs, node.module, node.source)

    def _write(self, old: Value, node: Node) -> None:
        self.new[old] = Value(old.index, old.shape, old.dtype, stride=old.stride)
        self.written[self._origin(old)] = old, node.index

    def _make(self, node: Node) -> None:
        for value in filter(None, node.outputs):
            self.made[value] = node.index
            if is_movement(node) and node.inputs:
                self.whose[value] = self._origin(node.inputs[0])

    def _origin(self, value: Value) -> Value:
        return self.whose.get(value, value)

    def _still_there(self, value: Value, node: Node) -> None:
        name, at = self.written.get(self._origin(value), (value, -1))
        if name is not value and self.made.get(value, -1) < at:
            raise Unfoldable(f"{node.op} reads what was written in place, at {node.where}")


def _copying(node: Node) -> tuple[str, Any] | None:
    """The op that gives a new tensor where this one writes; None where there is none."""
    namespace, packet, overload = node.op.split(".")
    name = packet.removesuffix("_")
    target = getattr(getattr(getattr(torch.ops, namespace), name, None), overload, None)
    return None if target is None else (f"{namespace}.{name}.{overload}", target)
