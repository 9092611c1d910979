"""Factors carried op by op: by how much every element of a value is scaled where its operands are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from surgeon.broadcast import narrow, thin
from surgeon.graph import Graph, Node, Value
from surgeon.rules import lookup

# f x -> f y for every f > 0, element by element
_STAYS = [
    f"aten.{x}" for x in "alias clone contiguous detach _to_copy lift_fresh neg relu abs".split()
]
_POOLS = ("aten.max_pool1d", "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices")
_VIEWS = ("aten.view", "aten._unsafe_view")
PRODUCTS = ("aten.mm", "aten.bmm")
_ZEROS = ("aten.zeros", "aten.zeros_like", "aten.new_zeros")


class Unfoldable(Exception):
    """Why a factor cannot be put into weights."""


@dataclass(frozen=True)
class Affine:
    """An op whose result is scaled by scaling its own parameters: their places, and the dim they lie on."""

    x: int
    weight: int
    bias: int | None
    weight_dim: int
    out_dim: int


AFFINE = {
    "aten.addmm": Affine(1, 2, 0, 1, -1),
    "aten.mm": Affine(0, 1, None, 1, -1),
    "aten.bmm": Affine(0, 1, None, 2, -1),
    "aten.convolution": Affine(0, 1, 2, 0, 1),
    "aten.native_layer_norm": Affine(0, 2, 3, -1, -1),
    "aten._fused_rms_norm": Affine(0, 2, None, -1, -1),
    "aten.native_batch_norm": Affine(0, 1, 2, 0, 1),
}


def refuse_transposed(node: Node) -> None:
    """The rows of a transposed convolution's weight are its inputs."""
    if packet_of(node) == "aten.convolution" and node.args[6]:
        raise Unfoldable(f"a transposed convolution, at {node.where}")


@dataclass
class Flow:
    """By how much every element of a value is scaled; a value that is not here by one.

    A zero is scaled by anything: NaN says so.
    """

    factors: dict[Value, Tensor]
    nothing: float = 1.0
    zeros: frozenset[Value] = frozenset()

    def step(self, node: Node, by: float = 1.0) -> None:
        """Carry factors through one node; its result is scaled by `by` besides."""
        if node.target._schema.is_mutable:
            raise Unfoldable(f"{node.op} writes in place, at {node.where}")
        for value, factor in zip(node.outputs, self.through(node), strict=False):
            if value is None or factor is None:
                continue
            factor = factor if by == 1 else factor * by
            if not _is_one(factor):
                self.factors[value] = narrow(factor).expand(factor.shape)

    def of(self, value: Any) -> Tensor:
        """The factors of a value; a constant index is itself."""
        if value.constant is not None:
            return value.constant
        known = self.factors.get(value)
        if known is None:
            default = torch.nan if value in self.zeros else self.nothing
            return torch.full((), default, dtype=torch.float64).expand(value.shape)
        return known

    def through(self, node: Node) -> tuple[Tensor | None, ...]:
        """The factors of a node's results; None where they are one."""
        packet = packet_of(node)
        if node.outputs[0] in self.zeros:
            return ()
        if packet in AFFINE:
            return (self._affine(node, AFFINE[packet]),)
        if is_movement(node) or packet in _POOLS:
            args = tree_map_only(Value, self.of, node.args)
            run: Any = _INSTEAD.get(packet, node.target)
            out = run(*args, **tree_map_only(Value, self.of, node.kwargs))
            return tuple(out) if isinstance(out, (tuple, list)) else (out,)
        step = _STEPS.get(packet)
        if step is None:
            raise Unfoldable(f"{node.op} meets a factor, at {node.where}")
        operands = [thin(self.of(v)) if isinstance(v, Value) else None for v in node.args[:2]]
        out, shape = step(*operands, *[None] * (2 - len(operands))), node.outputs[0]
        return (out if out is None or shape is None else out.expand(shape.shape),)

    def _affine(self, node: Node, a: Affine) -> Tensor:
        if packet_of(node) in PRODUCTS:
            return self._product(node.args[0], node.args[1], node.outputs[0])
        if node.arg(a.x) in self.factors:
            raise Unfoldable(f"{node.op} meets a factor, at {node.where}")
        refuse_transposed(node)
        vector = along(self.of(node.arg(a.weight)), a.weight_dim, node.arg(a.weight))
        bias = node.arg(a.bias) if a.bias is not None else None
        if bias is not None:
            vector = _equal(vector, along(self.of(bias), -1, bias))
        out = node.outputs[0]
        assert out is not None and vector is not None
        shape = [1] * len(out.shape)
        shape[a.out_dim] = len(vector)
        return vector.reshape(shape).expand(out.shape)

    def _product(self, a: Value, b: Value, out: Any) -> Tensor:
        """Of a matrix product: each side must be scaled alike along what is summed."""
        factor = torch.ones((), dtype=torch.float64)
        for value, summed in ((a, -1), (b, -2)):
            each = thin(self.of(value))
            mean = each.mean(summed, keepdim=True)
            if not torch.allclose(each, mean.expand_as(each), rtol=1e-12):
                raise Unfoldable("the terms of a matrix product would be scaled differently")
            factor = factor * mean
        return factor.expand(out.shape)


def along(factor: Tensor, dim: int, value: Value) -> Tensor:
    """The factors of a tensor along one dimension: all else must be scaled alike."""
    factor = thin(factor, keep=dim % factor.dim())
    factor = factor.movedim(dim, 0).reshape(factor.shape[dim], -1)
    if not torch.allclose(factor, factor[:, :1].expand_as(factor), 0, 0, equal_nan=True):
        raise Unfoldable(f"{value} is scaled within a row")
    return factor[:, 0]


def _equal(a: Tensor | None, b: Tensor | None) -> Tensor:
    """Both operands of a sum must be scaled alike."""
    if a is None or b is None:
        raise Unfoldable("a number is added to what is scaled")
    left, right = torch.broadcast_tensors(a, b)
    a, b = torch.where(left.isnan(), right, left), torch.where(right.isnan(), left, right)
    if not torch.allclose(a, b, rtol=1e-12, equal_nan=True):
        raise Unfoldable("two terms of a sum would be scaled differently")
    return (a + b) / 2


def _complex(parts: Tensor) -> Tensor:
    """The factor of complex numbers, of those of their two parts."""
    real, imaginary = parts.unbind(-1)
    return _equal(real, imaginary)


def _parts(number: Tensor) -> Tensor:
    return number.unsqueeze(-1).expand(*number.shape, 2)


# factors are broadcast, so that there is no view of them, and real
_INSTEAD: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(_VIEWS, torch.ops.aten.reshape.default),
    "aten.view_as_complex": _complex,
    "aten.view_as_real": _parts,
}


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


def back(node: Node, marks: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """Operand -> a bool mask of the elements that scale marked elements of the node's results.

    `marks` are masks broadcastable to the results; those returned are as narrow as they are.
    """
    out = node.outputs[0]
    if out is None or out not in marks:
        return _behind(node, marks)
    mask = marks[out]
    if packet_of(node) in PRODUCTS:
        a, b = node.inputs[:2]
        return {a: mask.any(-1, keepdim=True), b: mask.any(-2, keepdim=True)}
    if packet_of(node) in _STEPS:
        return {v: _unbroadcast(mask, v.shape) for v in node.inputs}
    if packet_of(node) in _VIEWS:
        return {v: narrow(mask.expand(out.shape).reshape(v.shape)) for v in node.inputs}
    return _behind(node, marks)


def _unbroadcast(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Of an operand that was broadcast: an element is marked where any of its copies is."""
    for _ in range(mask.dim() - len(shape)):
        mask = mask.any(0)
    for d, n in enumerate(shape):
        mask = mask.any(d, keepdim=True) if n == 1 else mask
    return mask


def _behind(node: Node, marks: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
    """The elements that a movement takes its marked results from: those that have a gradient."""
    ones = {v: torch.ones(()).expand(v.shape).requires_grad_() for v in node.inputs}
    with torch.enable_grad():
        outs = zip(node.outputs, Flow(ones).through(node), strict=False)
        marked = [(x, marks[v]) for v, x in outs if x is not None and v and v in marks]
        sums = [(x * mask).sum() for x, mask in marked if x.requires_grad]
        if not sums:
            return {}
        total = torch.stack(sums).sum()
        grads = torch.autograd.grad(total, list(ones.values()), allow_unused=True)
    return {v: narrow(grad) != 0 for v, grad in zip(ones, grads, strict=True) if grad is not None}


def carries(node: Node) -> bool:
    return packet_of(node) in _STEPS or packet_of(node) in _POOLS or is_movement(node)


def is_movement(node: Node) -> bool:
    rule = lookup(node.op)
    return rule is not None and rule.move is not None and rule.family != "factory"


def packet_of(node: Node) -> str:
    return node.op.rsplit(".", 1)[0]


def _is_one(factor: Tensor) -> bool:
    return not bool(((thin(factor) - 1).abs() >= 1e-9).any())


def zeros_of(graph: Graph) -> frozenset[Value]:
    """Values that are made as zeros, moved or not, and never written to."""
    made = Counter(v for n in graph.nodes for v in n.outputs if v is not None)
    zeros: set[Value] = set()
    for node in graph.nodes:
        moved = is_movement(node) and packet_of(node) != "aten.constant_pad_nd"
        stays = moved or packet_of(node) in _STAYS
        if (stays and node.inputs and zeros.issuperset(node.inputs)) or packet_of(node) in _ZEROS:
            zeros.update(v for v in node.outputs if v is not None and made[v] == 1)
    return frozenset(zeros)
