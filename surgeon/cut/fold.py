"""Scales that follow a width (attention's 1 / sqrt(head_dim)): what they lack goes into the weights before them.

A forward that computes its scale from a shape computes another one on the cut tensors. Multiplying the
rows that feed it by the quotient gives the original product back. Nothing is assumed of where it is
used: factors are carried from the scaled rows through the whole recorded graph, op by op, and every
one must be used up exactly by a scale that lacks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from surgeon.broadcast import narrow
from surgeon.cut.flow import (
    AFFINE,
    PRODUCTS,
    Flow,
    Unfoldable,
    along,
    back,
    carries,
    is_movement,
    packet_of,
    refuse_transposed,
    zeros_of,
)
from surgeon.cut.lacking import Lacking
from surgeon.cut.once import written_once
from surgeon.cut.sizes import Sizes
from surgeon.graph import Graph, Node, Value
from surgeon.plan import Folds, Keep
from surgeon.trace.tensors import named_state

_Makers = Mapping[Value, Node]
# what takes a factor: what is before its scale, and there of a product of activations the first operand (queries) or the second
# (keys); or the second operand of the product that reads what is scaled
_Side = Literal["first", "second", "beyond"]


def fold(slim: nn.Module, sizes: Sizes, keep: Keep, lacks: Lacking) -> Folds:
    """Multiply the rows of `slim` that feed the scales of `lacks`; what the plan must say of them.

    Raises Unfoldable, with nothing changed, where no rows carry exactly the lacking factors.
    """
    factors = _factors(sizes.coupling.graph, lacks)
    own = named_state(slim)
    folds: dict[str, tuple[tuple[int, int, float], ...]] = {}
    for value, factor in factors.items():
        name = value.state[0]
        kept = keep.get(name, {}).get(0)
        new = factor if kept is None else factor[list(kept)]
        rows = tuple(_runs(new))
        for first, last, by in rows:
            own[name].data[first:last] *= by
        folds |= dict.fromkeys(value.state, rows)
    return folds


def _factors(graph: Graph, lacks: Lacking) -> dict[Value, Tensor]:
    """State tensor -> the factor of each of its rows, all of them used up by the scales."""
    written = [node.index for node in graph.nodes if node.writes]
    try:
        return _on_a_side(written_once(graph, lacks.keys() & set(written)), lacks)
    except Unfoldable:
        if lacks.keys() >= set(written):
            raise
    return _on_a_side(written_once(graph, written), lacks)  # other writes lie on the way


def _on_a_side(graph: Graph, lacks: Lacking) -> dict[Value, Tensor]:
    """The same, by the first side that takes it: another op may read the queries, so that only the keys are left."""
    refused: list[Unfoldable] = []
    for side in get_args(_Side):
        try:
            return _used_up(graph, _rows(graph, lacks, side), lacks)
        except Unfoldable as error:
            refused.append(error)
    raise refused[0]


def _runs(factor: Tensor) -> list[tuple[int, int, float]]:
    """[(first row, last row + 1, factor)] of the rows whose factor is not one."""
    values, counts = torch.unique_consecutive(factor, return_counts=True)
    out, at = [], 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value != 1:
            out.append((at, at + count, value))
        at += count
    return out


def _rows(graph: Graph, lacks: Lacking, side: _Side) -> dict[Value, Tensor]:
    """State tensor -> the factor of each of its rows, so that every scale gets what it lacks."""
    makers: dict[Value, Node] = {}
    for node in graph.nodes:
        makers.update((v, node) for v in _made(node))
    found: dict[Value, Tensor] = {}
    needs = _needs(graph, makers, lacks, side)
    for by in sorted(set(needs.values())):
        alike = [value for value, factor in needs.items() if factor == by]
        for value, reached in _feeding(graph, makers, alike, side).items():
            rows = found.setdefault(value, torch.ones(len(reached), dtype=torch.float64))
            if bool((rows[reached] != 1).any()):
                raise Unfoldable(f"{value.state[0]} would need two factors")
            rows[reached] = by
    return found


def _needs(graph: Graph, makers: _Makers, lacks: Lacking, side: _Side) -> dict[Value, float]:
    """Value -> the factor that the weights behind it are to give it: what its scale lacks, or, where a product is to make up for
    both of its operands, what the scales of both do."""
    needs: dict[Value, float] = {}
    for i, by in lacks.items():
        scale = graph.nodes[i]
        if side == "beyond":
            value = _beside(graph, makers, scale)
            needs[value] = needs.get(value, 1.0) * by
        elif needs.setdefault(scale.args[0], by) != by:
            raise Unfoldable(f"two scales would need two factors, at {scale.where}")
    return needs


def _beside(graph: Graph, makers: _Makers, scale: Node) -> Value:
    """The second operand of the product that alone reads what is scaled."""
    value: Value | None = scale.outputs[0]
    while value is not None:
        readers = [n for n in graph.nodes if value in n.inputs]
        if len(readers) != 1 or value in graph.outputs:
            break
        if _is_activations(graph, makers, readers[0]):
            return readers[0].inputs[1]
        alone = carries(readers[0]) and len(readers[0].inputs) == 1
        value = readers[0].outputs[0] if alone else None
    raise Unfoldable(f"no product alone reads what is scaled, at {scale.where}")


def _made(node: Node) -> list[Value]:
    return [v for v in node.outputs if v is not None]


def _feeding(
    graph: Graph, makers: _Makers, scaled: Sequence[Value], side: _Side
) -> dict[Value, Tensor]:
    """Parameters that scale these values, and which of their rows do."""
    way, leaves = _way_back(graph, makers, scaled, side)
    marks = {v: torch.ones([1] * len(v.shape), dtype=torch.bool) for v in scaled}
    for node in sorted(way, key=lambda n: -n.index):
        for value, mask in back(node, marks).items():
            marks[value] = narrow(marks[value] | mask) if value in marks else mask
        for value in _made(node):
            marks.pop(value, None)
    found = [(leaf, marks[leaf.value]) for leaf in leaves if leaf.value in marks]
    return _joined(
        _rows_behind(makers, operand, dim, leaf.rows(mask))
        for leaf, mask in found
        for operand, dim in leaf.weights
    )


def _joined(found: Iterable[dict[Value, Tensor]]) -> dict[Value, Tensor]:
    """Rows of each tensor that any of several findings names."""
    out: dict[Value, Tensor] = {}
    for value, rows in (item for each in found for item in each.items()):
        if bool(rows.any()):
            out[value] = out.get(value, torch.zeros_like(rows)) | rows
    return out


@dataclass(frozen=True)
class _Leaf:
    """Where a factor can come in: a value, the dimension it is scaled along, and the weights that do it."""

    value: Value
    dim: int
    weights: tuple[
        tuple[Value, int], ...
    ]  # operands, with the dimension that is `dim` of the value

    @property
    def count(self) -> int:
        return self.value.shape[self.dim]

    def spread(self, vector: Tensor) -> Tensor:
        """One factor an element of the dimension, as factors of the whole value; nothing large is made."""
        shape = [1] * len(self.value.shape)
        shape[self.dim] = self.count
        return vector.reshape(shape).expand(self.value.shape)

    def rows(self, mask: Tensor) -> Tensor:
        """The positions of the dimension with a marked element."""
        return mask.movedim(self.dim, 0).reshape(mask.shape[self.dim], -1).any(1).expand(self.count)


def _by_row(value: Value) -> _Leaf:
    return _Leaf(value, 0, ((value, 0),))


def _way_back(
    graph: Graph, makers: _Makers, scaled: Sequence[Value], side: _Side
) -> tuple[set[Node], list[_Leaf]]:
    """The nodes between values and the nearest weights before them, and where these come in."""
    way: set[Node] = set()
    leaves: dict[_Leaf, None] = {}
    waiting = [*scaled]
    while waiting:
        value = waiting.pop()
        node = makers.get(value)
        if value.state:
            if value.state[0] not in graph.parameters:
                raise Unfoldable(f"the buffer {value.state[0]} comes before the scale")
            leaves[_by_row(value)] = None
        elif node is None:
            raise Unfoldable("the scale is applied to an input")
        elif packet_of(node) in AFFINE and not _is_activations(graph, makers, node):
            leaves[_affine_leaf(graph, makers, node)] = None
        elif node not in way:
            way.add(node)
            waiting += _before(graph, makers, node, side)
    return way, list(leaves)


def _is_activations(graph: Graph, makers: _Makers, node: Node) -> bool:
    """Whether a node is a matrix product neither of whose sides is a weight."""
    return packet_of(node) in PRODUCTS and not any(
        _is_parameter(graph, makers, v) for v in node.inputs
    )


def _affine_leaf(graph: Graph, makers: _Makers, node: Node) -> _Leaf:
    refuse_transposed(node)
    a = AFFINE[packet_of(node)]
    weight, bias = node.arg(a.weight), node.arg(a.bias) if a.bias is not None else None
    out = node.outputs[0]
    if weight is None or out is None or not _is_parameter(graph, makers, weight):
        raise Unfoldable(f"{node.op} has no weight of its own, at {node.where}")
    own = ((weight, a.weight_dim), *(((bias, -1),) if bias is not None else ()))
    return _Leaf(out, a.out_dim, own)


def _before(graph: Graph, makers: _Makers, node: Node, side: _Side) -> list[Value]:
    """Where the factor of a node's result can come from."""
    if _is_activations(graph, makers, node):
        return [node.inputs[side == "second"]]
    inputs = [v for v in node.inputs if v.constant is None]
    if packet_of(node) in ("aten.mul", "aten.div") and len(inputs) > 1:
        own = [v for v in inputs if _is_parameter(graph, makers, v)]
        return (own or [v for v in inputs if not v.state])[:1]
    if carries(node):
        return [v for v in inputs if not _is_fixed(makers, v)]
    raise Unfoldable(f"{node.op} comes between the weights and the scale, at {node.where}")


def _is_parameter(graph: Graph, makers: _Makers, value: Value) -> bool:
    """Whether a value is a parameter, as it is or moved."""
    while not value.state:
        node = makers.get(value)
        if node is None or not is_movement(node) or not node.inputs:
            return False
        value = node.inputs[0]
    return value.state[0] in graph.parameters


def _rows_behind(makers: _Makers, operand: Value, dim: int, goes: Tensor) -> dict[Value, Tensor]:
    """State tensor -> which of its rows are the positions `goes` of a dimension of an operand.

    The movement between them is run on row numbers; zeros among them (a key without a bias) have none.
    """
    way: set[Node] = set()
    states: dict[Value, int] = {}
    waiting, count = [operand], 0
    while waiting:
        value = waiting.pop()
        node = makers.get(value)
        if value.state:
            states.setdefault(value, count)
            count += value.shape[0]
        elif node is not None and is_movement(node):
            way.add(node)
            waiting += node.inputs
    numbers = {
        s: _by_row(s).spread(torch.arange(first, first + s.shape[0])) for s, first in states.items()
    }
    flow = Flow(numbers, nothing=-1)
    for node in sorted(way, key=lambda n: n.index):
        flow.step(node)
    reached = along(flow.of(operand), dim, operand)[goes]
    return {
        s: torch.isin(torch.arange(first, first + s.shape[0]), reached)
        for s, first in states.items()
    }


def _is_fixed(makers: _Makers, value: Value) -> bool:
    """Zeros and the like, made on the spot."""
    node = makers.get(value)
    return not value.state and node is not None and not node.inputs


def _used_up(graph: Graph, rows: dict[Value, Tensor], lacks: Lacking) -> dict[Value, Tensor]:
    """Carry the rows' factors through the whole graph: nothing but the scales may see them."""
    flow = Flow({v: _by_row(v).spread(f) for v, f in rows.items()}, zeros=zeros_of(graph))
    last = {v: at for at, node in enumerate(graph.nodes) for v in node.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    for at, node in enumerate(graph.nodes):
        if node.index in lacks or any(v in flow.factors for v in node.inputs):
            flow.step(node, 1 / lacks.get(node.index, 1.0))
        for value in (*node.inputs, *_made(node)):
            if last.get(value, at) <= at:  # nothing reads it any more
                flow.factors.pop(value, None)
    for value in graph.outputs:
        if value in flow.factors:
            raise Unfoldable("the factor would reach the output")
    return rows
