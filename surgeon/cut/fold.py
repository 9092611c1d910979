"""Scales that follow a width (attention's 1 / sqrt(head_dim)): what they lack goes into the weights before them.

A forward that computes its scale from a shape computes another one on the cut tensors. Multiplying the
rows that feed it by the quotient gives the original product back. Nothing is assumed of where it is
used: factors are carried from the scaled rows through the whole recorded graph, op by op, and every
one must be used up exactly by a scale that lacks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from surgeon.cut.sizes import Sizes
from surgeon.graph import Graph, Node, Value
from surgeon.plan import Folds, Keep
from surgeon.rules import lookup
from surgeon.trace.tensors import named_state

Lacking = Mapping[int, float]  # node -> the factor that its result lacks in the cut model
_Makers = Mapping[Value, Node]
# f x -> f y for every f > 0, element by element
_STAYS = [
    f"aten.{x}" for x in "alias clone contiguous detach _to_copy lift_fresh neg relu abs".split()
]
_POOLS = ("aten.max_pool1d", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices")
_VIEWS = ("aten.view", "aten._unsafe_view")
_PRODUCTS = ("aten.mm", "aten.bmm")
_ZEROS = ("aten.zeros", "aten.zeros_like", "aten.new_zeros")
_RESHAPE = torch.ops.aten.reshape.default


class Unfoldable(Exception):
    """Why a factor cannot be put into weights."""


@dataclass(frozen=True)
class _Affine:
    """An op whose result is scaled by scaling its own parameters: their places, and the dim they lie on."""

    x: int
    weight: int
    bias: int | None
    weight_dim: int
    out_dim: int


_AFFINE = {
    "aten.addmm": _Affine(1, 2, 0, 1, -1),
    "aten.mm": _Affine(0, 1, None, 1, -1),
    "aten.bmm": _Affine(0, 1, None, 2, -1),
    "aten.convolution": _Affine(0, 1, 2, 0, 1),
    "aten.native_layer_norm": _Affine(0, 2, 3, -1, -1),
    "aten._fused_rms_norm": _Affine(0, 2, None, -1, -1),
    "aten.native_batch_norm": _Affine(0, 1, 2, 0, 1),
}


def lacking(original: Graph, slim: Graph) -> dict[int, float]:
    """Nodes of the original whose constant scale is another one in the cut model's forward.

    Empty where the two forwards do not run the same ops. Where the original was recorded along
    several paths, the same line with the same constant lacks the same in each.
    """
    if [n.op for n in original.run] != [n.op for n in slim.nodes]:
        return {}
    found = {}
    lines = {}
    for old, new in zip(original.run, slim.nodes, strict=True):
        packet = _packet(old)
        if packet not in ("aten.mul", "aten.div") or len(old.args) < 2:
            continue
        a, b = old.args[1], new.args[1]
        if type(a) in (int, float) and type(b) in (int, float) and a != b and a * b > 0:
            by = found[old.index] = a / b if packet == "aten.mul" else b / a
            lines[old.module, old.source, old.op, a] = by
    for node in original.nodes[len(original.run) :] if lines else ():
        line = (node.module, node.source, node.op, node.arg(1))
        if type(line[3]) in (int, float) and line in lines:
            found[node.index] = lines[line]
    return found


def stable(lacks: Lacking, first: Graph, second: Graph) -> dict[int, float]:
    """Those whose constant is the same on other data: the others are the data's, and no scale of a width."""
    if [n.op for n in first.nodes] != [n.op for n in second.nodes]:
        return {}
    same = [a.args[1:2] == b.args[1:2] for a, b in zip(first.nodes, second.nodes, strict=True)]
    return {i: by for i, by in lacks.items() if i >= len(same) or same[i]}


def fold(slim: nn.Module, sizes: Sizes, keep: Keep, lacks: Lacking) -> Folds:
    """Multiply the rows of `slim` that feed the scales of `lacks`; what the plan must say of them.

    Raises Unfoldable, with nothing changed, where no rows carry exactly the lacking factors.
    """
    graph = sizes.coupling.graph
    factors = _rows(graph, lacks)
    _used_up(graph, factors, lacks)
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


def _runs(factor: Tensor) -> list[tuple[int, int, float]]:
    """[(first row, last row + 1, factor)] of the rows whose factor is not one."""
    values, counts = torch.unique_consecutive(factor, return_counts=True)
    out, at = [], 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value != 1:
            out.append((at, at + count, value))
        at += count
    return out


def _rows(graph: Graph, lacks: Lacking) -> dict[Value, Tensor]:
    """State tensor -> the factor of each of its rows, so that every scale gets what it lacks."""
    makers: dict[Value, Node] = {}
    for node in graph.nodes:
        makers.update((v, node) for v in node.outputs if v is not None)
    found: dict[Value, Tensor] = {}
    for by in sorted(set(lacks.values())):
        alike = [graph.nodes[i] for i, factor in lacks.items() if factor == by]
        for value, reached in _feeding(graph, makers, alike).items():
            rows = found.setdefault(value, torch.ones(len(reached), dtype=torch.float64))
            if bool((rows[reached] != 1).any()):
                raise Unfoldable(f"{value.state[0]} would need two factors")
            rows[reached] = by
    return found


def _feeding(graph: Graph, makers: _Makers, scales: Sequence[Node]) -> dict[Value, Tensor]:
    """Parameters that scale the operands of `scales`, and which of their rows do.

    Found by carrying ones that require gradients along the way: what has a gradient leads there.
    """
    way, leaves = _way_back(graph, makers, scales)
    ones = {
        leaf: torch.ones(leaf.count, dtype=torch.float64, requires_grad=True) for leaf in leaves
    }
    flow = _Flow({leaf.value: leaf.spread(vector) for leaf, vector in ones.items()})
    for node in sorted(way, key=lambda n: n.index):
        flow.step(node)
    with torch.enable_grad():
        total = torch.stack([flow.factors[scale.args[0]].sum() for scale in scales]).sum()
    grads = torch.autograd.grad(total, list(ones.values()))
    fed = zip(ones, grads, strict=True)
    return _joined(
        _rows_behind(makers, operand, dim, grad != 0)
        for leaf, grad in fed
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


def _by_row(value: Value) -> _Leaf:
    return _Leaf(value, 0, ((value, 0),))


def _way_back(
    graph: Graph, makers: _Makers, scales: Sequence[Node]
) -> tuple[set[Node], list[_Leaf]]:
    """The nodes between scales and the nearest weights before them, and where these come in."""
    way: set[Node] = set()
    leaves: dict[_Leaf, None] = {}
    waiting = [scale.args[0] for scale in scales]
    while waiting:
        value = waiting.pop()
        node = makers.get(value)
        if value.state:
            if value.state[0] not in graph.parameters:
                raise Unfoldable(f"the buffer {value.state[0]} comes before the scale")
            leaves[_by_row(value)] = None
        elif node is None:
            raise Unfoldable("the scale is applied to an input")
        elif _packet(node) in _AFFINE and not _is_activations(graph, makers, node):
            leaves[_affine_leaf(graph, makers, node)] = None
        elif node not in way:
            way.add(node)
            waiting += _before(graph, makers, node)
    return way, list(leaves)


def _is_activations(graph: Graph, makers: _Makers, node: Node) -> bool:
    """Whether a node is a matrix product neither of whose sides is a weight."""
    return _packet(node) in _PRODUCTS and not any(
        _is_parameter(graph, makers, v) for v in node.inputs
    )


def _affine_leaf(graph: Graph, makers: _Makers, node: Node) -> _Leaf:
    a = _AFFINE[_packet(node)]
    weight, bias = node.arg(a.weight), node.arg(a.bias) if a.bias is not None else None
    out = node.outputs[0]
    if weight is None or out is None or not _is_parameter(graph, makers, weight):
        raise Unfoldable(f"{node.op} has no weight of its own, at {node.module}")
    own = ((weight, a.weight_dim), *(((bias, -1),) if bias is not None else ()))
    return _Leaf(out, a.out_dim, own)


def _before(graph: Graph, makers: _Makers, node: Node) -> list[Value]:
    """Where the factor of a node's result can come from."""
    if _is_activations(graph, makers, node):
        return node.inputs[:1]
    inputs = [v for v in node.inputs if v.constant is None]
    if _packet(node) in ("aten.mul", "aten.div") and len(inputs) > 1:
        own = [v for v in inputs if _is_parameter(graph, makers, v)]
        return (own or [v for v in inputs if not v.state])[:1]
    if _carries(node):
        return [v for v in inputs if not _is_fixed(makers, v)]
    raise Unfoldable(f"{node.op} comes between the weights and the scale, at {node.module}")


def _is_parameter(graph: Graph, makers: _Makers, value: Value) -> bool:
    """Whether a value is a parameter, as it is or moved."""
    while not value.state:
        node = makers.get(value)
        if node is None or not _is_movement(node) or not node.inputs:
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
        elif node is not None and _is_movement(node):
            way.add(node)
            waiting += node.inputs
    numbers = {
        s: _by_row(s).spread(torch.arange(first, first + s.shape[0])) for s, first in states.items()
    }
    flow = _Flow(numbers, nothing=-1)
    for node in sorted(way, key=lambda n: n.index):
        flow.step(node)
    reached = _along(flow.of(operand), dim, operand)[goes]
    return {
        s: torch.isin(torch.arange(first, first + s.shape[0]), reached)
        for s, first in states.items()
    }


def _is_fixed(makers: _Makers, value: Value) -> bool:
    """Zeros and the like, made on the spot."""
    node = makers.get(value)
    return not value.state and node is not None and not node.inputs


def _used_up(graph: Graph, rows: Mapping[Value, Tensor], lacks: Lacking) -> None:
    """Carry the rows' factors through the whole graph: nothing but the scales may see them."""
    flow = _Flow({v: _by_row(v).spread(f) for v, f in rows.items()}, zeros=_zeros(graph))
    for node in graph.nodes:
        if node.index in lacks or any(v in flow.factors for v in node.inputs):
            flow.step(node, 1 / lacks.get(node.index, 1.0))
    for value in graph.outputs:
        if value in flow.factors:
            raise Unfoldable("the factor would reach the output")


def _zeros(graph: Graph) -> frozenset[Value]:
    """Values that are made as zeros, moved or not, and never written to."""
    made = Counter(v for n in graph.nodes for v in n.outputs if v is not None)
    zeros: set[Value] = set()
    for node in graph.nodes:
        moved = _is_movement(node) and _packet(node) != "aten.constant_pad_nd"
        stays = moved or _packet(node) in _STAYS
        if (stays and node.inputs and zeros.issuperset(node.inputs)) or _packet(node) in _ZEROS:
            zeros.update(v for v in node.outputs if v is not None and made[v] == 1)
    return frozenset(zeros)


@dataclass
class _Flow:
    """By how much every element of a value is scaled; a value that is not here by one.

    A zero is scaled by anything: NaN says so.
    """

    factors: dict[Value, Tensor]
    nothing: float = 1.0
    zeros: frozenset[Value] = frozenset()

    def step(self, node: Node, by: float = 1.0) -> None:
        """Carry factors through one node; its result is scaled by `by` besides."""
        if node.target._schema.is_mutable:
            raise Unfoldable(f"{node.op} writes in place, at {node.module}")
        with torch.enable_grad():
            outs = self._through(node)
        for value, factor in zip(node.outputs, outs, strict=False):
            if value is None or factor is None:
                continue
            factor = factor if by == 1 else factor * by
            if factor.requires_grad or not _is_one(factor):
                self.factors[value] = factor

    def of(self, value: Any) -> Tensor:
        """The factors of a value; a constant index is itself."""
        if value.constant is not None:
            return value.constant
        known = self.factors.get(value)
        if known is None:
            default = torch.nan if value in self.zeros else self.nothing
            return torch.full((), default, dtype=torch.float64).expand(value.shape)
        return known

    def _through(self, node: Node) -> tuple[Tensor | None, ...]:
        packet = _packet(node)
        if node.outputs[0] in self.zeros:
            return ()
        if packet in _AFFINE:
            return (self._affine(node, _AFFINE[packet]),)
        if _is_movement(node) or packet in _POOLS:
            args = tree_map_only(Value, self.of, node.args)
            run = (
                _RESHAPE if packet in _VIEWS else node.target
            )  # factors are broadcast, so no view of them
            out = run(*args, **tree_map_only(Value, self.of, node.kwargs))
            return tuple(out) if isinstance(out, (tuple, list)) else (out,)
        step = _STEPS.get(packet)
        if step is None:
            raise Unfoldable(f"{node.op} meets a factor, at {node.module}")
        operands = [_thin(self.of(v)) if isinstance(v, Value) else None for v in node.args[:2]]
        out, shape = step(*operands, *[None] * (2 - len(operands))), node.outputs[0]
        return (out if out is None or shape is None else out.expand(shape.shape),)

    def _affine(self, node: Node, a: _Affine) -> Tensor:
        if _packet(node) in _PRODUCTS:
            return self._product(node.args[0], node.args[1], node.outputs[0])
        if node.arg(a.x) in self.factors:
            raise Unfoldable(f"{node.op} meets a factor, at {node.module}")
        if _packet(node) == "aten.convolution" and node.args[6]:
            raise Unfoldable(f"a transposed convolution, at {node.module}")
        vector = _along(self.of(node.arg(a.weight)), a.weight_dim, node.arg(a.weight))
        bias = node.arg(a.bias) if a.bias is not None else None
        if bias is not None:
            vector = _equal(vector, _along(self.of(bias), -1, bias))
        out = node.outputs[0]
        assert out is not None and vector is not None
        shape = [1] * len(out.shape)
        shape[a.out_dim] = len(vector)
        return vector.reshape(shape).expand(out.shape)

    def _product(self, a: Value, b: Value, out: Any) -> Tensor:
        """Of a matrix product: each side must be scaled alike along what is summed."""
        factor = torch.ones((), dtype=torch.float64)
        for value, summed in ((a, -1), (b, -2)):
            each = _thin(self.of(value))
            mean = each.mean(summed, keepdim=True)
            if not torch.allclose(each, mean.expand_as(each), rtol=1e-12):
                raise Unfoldable("the terms of a matrix product would be scaled differently")
            factor = factor * mean
        return factor.expand(out.shape)


def _along(factor: Tensor, dim: int, value: Value) -> Tensor:
    """The factors of a tensor along one dimension: all else must be scaled alike."""
    factor = _thin(factor, keep=dim % factor.dim())
    factor = factor.movedim(dim, 0).reshape(factor.shape[dim], -1)
    if not torch.allclose(factor, factor[:, :1].expand_as(factor), 0, 0, equal_nan=True):
        raise Unfoldable(f"{value} is scaled within a row")
    return factor[:, 0]


def _thin(factor: Tensor, keep: int | None = None) -> Tensor:
    """One of the equal copies that a broadcast tensor holds."""
    for d, stride in enumerate(factor.stride()):
        if stride == 0 and d != keep:
            factor = factor.narrow(d, 0, min(factor.shape[d], 1))
    return factor


def _equal(a: Tensor | None, b: Tensor | None) -> Tensor:
    """Both operands of a sum must be scaled alike."""
    if a is None or b is None:
        raise Unfoldable("a number is added to what is scaled")
    left, right = torch.broadcast_tensors(a, b)
    a, b = torch.where(left.isnan(), right, left), torch.where(right.isnan(), left, right)
    if not torch.allclose(a, b, rtol=1e-12, equal_nan=True):
        raise Unfoldable("two terms of a sum would be scaled differently")
    return (a + b) / 2


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a * b


def _over(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None or a is None else a / b


_STEPS: dict[str, Callable[..., Tensor | None]] = {
    **{name: lambda a, _b: a for name in _STAYS},
    "aten.mul": _times,
    "aten.div": _over,
    "aten.add": _equal,
    "aten.sub": _equal,
}


def _carries(node: Node) -> bool:
    return _packet(node) in _STEPS or _packet(node) in _POOLS or _is_movement(node)


def _is_movement(node: Node) -> bool:
    rule = lookup(node.op)
    return rule is not None and rule.move is not None and rule.family != "factory"


def _packet(node: Node) -> str:
    return node.op.rsplit(".", 1)[0]


def _is_one(factor: Tensor) -> bool:
    return not bool(((_thin(factor) - 1).abs() >= 1e-9).any())
