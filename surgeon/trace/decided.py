"""Which of the numbers that a forward reads are decided by its inputs, and not by its code alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from surgeon.graph import Graph, Node, Value
from surgeon.trace.decisions import READS

_NAMES = frozenset(map(str, READS))
# what Python makes tensors of numbers with
_MADE = frozenset(
    f"aten.{n}.default"
    for n in ("lift_fresh", "lift_fresh_copy", "scalar_tensor", "full", "arange")
)


def decided(graph: Graph, start: int = 0) -> set[str]:
    """The lines where a number is read that inputs, state or chance decide, and not the code alone (a scale that is
    worked out with tensors), in the run that begins at node `start`."""
    nodes = graph.nodes[start:]
    if not any(node.op in _NAMES for node in nodes):
        return set()
    told = {*graph.given, *_kept(graph)}
    made: dict[Value, Node] = {}
    found, left = set[str](), False
    for node in nodes:
        if (
            told.isdisjoint(node.inputs)
            and not _by_chance(node)
            and not (left and node.op in _MADE)
        ):
            made.update((v, node) for v in node.outputs if v and v not in made)
            continue
        told.update(v for v in node.outputs if v)
        if node.op in _NAMES:
            found.add(node.source)
        if node.op in _NAMES or node.target is None:
            left = True  # Python knows it, and may make tensors of it
        elif node.writes:
            _tell(told, made, node)  # what it writes to may be a view of what is read
    return found


def _kept(graph: Graph) -> Iterator[Value]:
    """State that decides: what may be loaded or trained, and what the forward writes to. A buffer that no state dict has is
    otherwise what the code made it (a padding as a tensor)."""
    saved = graph.parameters | graph.buffers
    written = {v for node in graph.nodes if node.writes for v in node.inputs}
    for name, value in graph.state.items():
        if name in saved or (name not in graph.loose and value in written):
            yield value


def by_code(graph: Graph) -> set[str]:
    """The other lines where the run on the inputs as given reads a number: the code alone decides it."""
    own = replace(graph, nodes=graph.run)
    return {node.source for node in own.nodes if node.op in _NAMES} - decided(own)


def _by_chance(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _tell(told: set[Value], made: dict[Value, Node], node: Node) -> None:
    """Count what a node's operands were made of."""
    todo = [*node.inputs]
    while todo:
        value = todo.pop()
        told.add(value)
        if value in made:
            todo += [v for v in made.pop(value).inputs if v not in told]
