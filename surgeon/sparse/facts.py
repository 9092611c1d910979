"""What a network computes without looking at its inputs: the recorded graph run in float64, element by element.

Every value has its numbers and, beside them, which of them are open: another input may change them.
A zero weight closes what it multiplies, a zero scale what it scales. Where an op is not understood, all
of its results are open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from surgeon.graph import Node, Value
from surgeon.rules import lookup
from surgeon.sparse.touch import Notes, touched
from surgeon.widths import widened

NORMS = ("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training")
_ALIASES = ("aten.alias", "aten.detach")
_VIEWS = ("aten.view", "aten._unsafe_view", "aten._reshape_alias")


@dataclass(frozen=True)
class Product:
    """Places of the two factors of a bilinear op, and of what it adds."""

    a: int
    b: int
    bias: int | None = None


PRODUCTS = {
    "aten.convolution": Product(0, 1, 2),
    "aten.mkldnn_convolution": Product(0, 1, 2),
    "aten.linear": Product(0, 1, 2),
    "aten.addmm": Product(1, 2, 0),
    "aten.baddbmm": Product(1, 2, 0),
    "aten.addmv": Product(1, 2, 0),
    "aten.mm": Product(0, 1),
    "aten.bmm": Product(0, 1),
    "aten.mv": Product(0, 1),
    "aten.dot": Product(0, 1),
    "aten.mul": Product(0, 1),
}


def packet_of(node: Node) -> str:
    """'aten.add' of 'aten.add_.Tensor': an op in place computes what its plain form does."""
    name = node.op.rsplit(".", 1)[0] if node.op.count(".") > 1 else node.op
    return name.rstrip("_")


def product_of(node: Node) -> Product | None:
    """Where a node multiplies two tensors and at most adds a third; None where it does not."""
    found = PRODUCTS.get(packet_of(node))
    if found is None or node.kwargs:
        return None
    fits = all(isinstance(node.arg(i), Value) for i in (found.a, found.b))
    return found if fits else None


def is_norm(node: Node) -> bool:
    """Whether it is a batch norm that reads its running statistics: a factor and a sum for each channel."""
    packet = packet_of(node)
    own = packet == NORMS[0] and node.arg(5)
    return packet in NORMS and not own and node.arg(3) is not None


def norm_factor(node: Node, facts: Facts) -> Tensor:
    """What a batch norm multiplies each channel by: f64[channels]."""
    eps = node.args[7 if packet_of(node) == NORMS[0] else 6]
    by = (facts.number(node.args[4]) + eps).rsqrt()
    return by if node.args[1] is None else by * facts.number(node.args[1])


def multiply(node: Node, product: Product, a: Tensor, b: Tensor) -> Tensor:
    """The node's product of two tensors, nothing added."""
    args = tree_map_only(Value, lambda _: None, list(node.args))
    args[product.a], args[product.b] = a, b
    target: Any = node.target
    if product.bias is not None and "convolution" not in node.op and "linear" not in node.op:
        bias: Value = node.args[product.bias]
        args[product.bias] = a.new_zeros(bias.shape)
    if target._schema.name.endswith("_"):
        target = torch.ops.aten.mul.Tensor
    return target(*args)


def indicate(
    node: Node, product: Product, a: Tensor, b: Tensor, asked: Tensor | None = None
) -> Tensor:
    """As `multiply`, of 0/1 tensors whose result is only asked where it is not zero.

    A convolution's are joined along space where its kernel reaches along it, or nothing changes along
    it (of `asked` neither, a mask of the result): what is called open may be too much, and never too
    little. Joined dimensions have an extent of one.
    """
    if packet_of(node) != "aten.convolution":
        return multiply(node, product, a, b)
    given = [list(x) * (b.dim() - 2 if len(x) == 1 else 1) for x in node.args[3:6]]
    added = list(node.args[7]) * (b.dim() - 2 if len(node.args[7]) == 1 else 1)
    for d in range(2, b.dim()):
        alike = _is_even(a, d) and (asked is None or _is_even(asked, d))
        if b.shape[d] == 1 and not alike:
            continue
        a, b = a.amax(d, keepdim=True), b.amax(d, keepdim=True)
        for each, alone in zip((*given, added), (1, 0, 1, 0), strict=True):
            each[d - 2] = alone
    rest = (*given, node.args[6], added, node.args[8])
    return torch.ops.aten.convolution.default(a, b, None, *rest)


def _is_even(mask: Tensor, d: int) -> bool:
    return bool((mask == mask.narrow(d, 0, 1)).all())


class Facts:
    """The numbers of the values met so far, and a 0/1 tensor beside each: 1 is open."""

    def __init__(self, notes: Notes, state: Mapping[str, Tensor], inputs: Mapping[Value, Tensor]):
        self.notes = notes
        self.numbers: dict[Value, Tensor] = {}
        self.opens: dict[Value, Tensor] = {}
        self._state = state
        for value, tensor in inputs.items():
            wide = widened(tensor.dtype, torch.float64)
            self._set(value, tensor.to("cpu", wide, copy=True), torch.ones(value.shape))

    def number(self, value: Value) -> Tensor:
        """Its numbers; zeros stand where a float is open."""
        self._meet(value)
        return self.numbers[value]

    def open(self, value: Value) -> Tensor:
        """f32, 1 where another input may change it."""
        self._meet(value)
        return self.opens[value]

    def close(self, value: Value, number: Tensor, same: Tensor) -> None:
        """Take numbers as they were found, where they are `same` whatever the input."""
        self.numbers[value] = torch.where(same, number, self.numbers[value])
        self.opens[value] = self.opens[value] * ~same

    def forget(self, value: Value) -> None:
        """Drop a value that nothing reads any more."""
        self.numbers.pop(value, None)
        self.opens.pop(value, None)

    def _meet(self, value: Value) -> None:
        if value in self.numbers:
            return
        if value.state:
            tensor = self._state[value.state[0]].detach()
            wide = widened(tensor.dtype, torch.float64)
            self._set(value, tensor.to("cpu", wide, copy=True), torch.zeros(value.shape))
        elif value.constant is not None:
            self._set(value, value.constant.clone(), torch.zeros(value.shape))
        else:  # a literal that was recorded without numbers
            self._unknown(value)

    def _unknown(self, value: Value) -> None:
        self._set(value, torch.zeros(value.shape, dtype=_dtype(value)), torch.ones(value.shape))

    def _set(self, value: Value, number: Tensor, open_: Tensor, *, fill: bool = True) -> None:
        if fill and (number.is_floating_point() or number.is_complex()):
            number.masked_fill_(open_ > 0, 0)
        self.numbers[value], self.opens[value] = number, open_

    def step(self, node: Node) -> None:
        """Run one node."""
        for value in node.inputs:
            self._meet(value)
        outs = [v for v in node.outputs if v is not None]
        found = self._run(node)
        if found is None:
            for value in outs:
                self._unknown(value)
            return
        opens = self._opened(node)
        fill = not _shows(node)  # what was moved is filled already, and may be broadcast
        for value, number, open_ in zip(node.outputs, found, opens, strict=False):
            if value is None:
                continue
            if number is None or tuple(number.shape) != value.shape:  # sizes that the data decide
                self._unknown(value)
                continue
            if value in self.opens and number is self.numbers.get(value):  # written in place
                open_ = self.opens[value].copy_(open_)
            self._set(value, number, open_, fill=fill)

    def _run(self, node: Node) -> list[Tensor] | None:
        """The op on the numbers; None where that says nothing of any element."""
        rule = lookup(node.op)
        loose = getattr(node.target, "tags", ())
        if packet_of(node).startswith("aten.lift_fresh") and len(node.args) > 1:
            return self._literal(node)
        if torch.Tag.nondeterministic_seeded in loose or "empty" in node.op:
            return None
        if rule is None and any(bool(self.open(v).any()) for v in node.inputs):
            return None
        product = product_of(node)
        if product is not None and not node.target._schema.is_mutable:
            factors = (node.args[product.a], node.args[product.b])
            if not all(bool(self.number(v).any()) for v in factors):
                return self._only_bias(node, product)
        return run(node, self.number)

    def _only_bias(self, node: Node, product: Product) -> list[Tensor]:
        """Where a factor is all zeros, closed or not, nothing but what is added is left."""
        out = node.outputs[0]
        assert out is not None
        number = torch.zeros(out.shape, dtype=_dtype(out))
        bias = node.arg(product.bias) if product.bias is not None else None
        if bias is not None:
            along = [1, -1, *[1] * (number.dim() - 2)] if "convolution" in node.op else [-1]
            own = self.number(bias)
            number += own.reshape(along) if own.dim() == 1 else own
        return [number]

    def _literal(self, node: Node) -> list[Tensor]:
        """Numbers written in the code, noted behind the tensor that they make."""
        first = node.outputs[0]
        assert first is not None
        given = list(node.args)
        self.opens[given[0]].zero_()
        return [torch.tensor(given[1], dtype=_dtype(first)).reshape(first.shape)]

    def _opened(self, node: Node) -> list[Tensor]:
        rule = lookup(node.op)
        if _shows(node) and rule is not None and not is_made(node):
            return self._moved(node)
        if is_made(node) or not any(bool(self.open(v).any()) for v in node.inputs):
            return [torch.zeros(v.shape if v else ()) for v in node.outputs]
        marks = touched(node, self.notes, lambda v: self.open(v) > 0)
        opens = [m.float() for m in marks]
        product = product_of(node)
        if product is not None:
            opens[0] = self._of_product(node, product)
        elif is_norm(node):
            along = (norm_factor(node, self) != 0).float()
            opens[0] *= along.reshape(1, -1, *[1] * (opens[0].dim() - 2))
        elif packet_of(node) == "aten.embedding" and not bool(self.open(node.args[0]).any()):
            rows = self.number(node.args[0])
            opens[0] *= (rows != rows[:1]).any(0).float()
        return opens

    def _moved(self, node: Node) -> list[Tensor]:
        """A movement of what it moves; where it reads open positions, all is open."""
        everything = [torch.ones(v.shape if v else ()) for v in node.outputs]
        moving = content(node)
        if packet_of(node) in ("aten.glu", "aten.view_as_complex"):
            none = not any(bool(self.open(v).any()) for v in node.inputs)
            return [torch.zeros_like(m) for m in everything] if none else everything
        if any(bool(self.open(v).any()) for v in node.inputs if v not in moving):
            return everything
        out = run(node, lambda v: self.open(v) if v in moving else self.number(v), fill=0.0)
        return (
            everything
            if out is None
            else [o.clamp(max=1) if "col2im" in node.op else o for o in out]
        )

    def _of_product(self, node: Node, product: Product) -> Tensor:
        a, b = node.args[product.a], node.args[product.b]
        total = torch.zeros(())
        for one, other in ((a, b), (b, a)):
            if bool(self.open(one).any()):
                shown = {one: self.open(one), other: self.weighs(other)}
                total = total + indicate(
                    node, product, shown[a] if a is not b else shown[one], shown[b]
                )
        bias = node.arg(product.bias) if product.bias is not None else None
        own = touched(node, self.notes, lambda v: self.open(v) > 0 if v is bias else None)[0]
        out = node.outputs[0]
        assert out is not None
        return ((total > 0.5) | own).float().expand(out.shape).clone()

    def weighs(self, value: Value) -> Tensor:
        """f32, 1 where a number may differ from zero."""
        return ((self.number(value) != 0) | (self.open(value) > 0)).float()


def is_made(node: Node) -> bool:
    """Whether the result takes at most its shape from the operands."""
    rule = lookup(node.op)
    fresh = packet_of(node) in ("aten.zeros_like", "aten.ones_like")
    return fresh or (rule is not None and rule.family == "factory")


def _shows(node: Node) -> bool:
    """Whether the results may be views of the operands: then so must be what is noted beside them."""
    rule = lookup(node.op)
    return packet_of(node) in _ALIASES or (rule is not None and rule.move is not None)


def content(node: Node) -> set[Value]:
    """What a movement moves; its other tensors are positions."""
    moved = [node.args[0]] if node.args else []
    moved += [node.args[2]] if packet_of(node) == "aten.index_put" else []
    flat = [x for m in moved for x in (m if isinstance(m, (list, tuple)) else [m])]
    return {x for x in flat if isinstance(x, Value)}


def run(node: Node, of: Callable[[Value], Tensor], fill: float | None = None) -> list[Any] | None:
    """The node's op on other tensors: its results, or None where it does not run on them.

    fill: what a padding puts in, instead of the node's own.
    """
    target: Any = node.target
    if not callable(target) or not hasattr(target, "_schema"):
        return None
    args = [_arg(tree_map_only(Value, of, a)) for a in node.args]
    kwargs = {k: _arg(tree_map_only(Value, of, a)) for k, a in node.kwargs.items()}
    if fill is not None and packet_of(node) in ("aten.constant_pad_nd", "aten.pad"):
        args, kwargs = args[:2], {}
    try:
        out = target(*args, **kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
        if packet_of(node) not in _VIEWS:
            return None
        out = args[0].reshape(args[1])
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _arg(arg: Any) -> Any:
    """What was recorded on meta tensors in float32, for real ones in float64."""
    if isinstance(arg, torch.device):
        return torch.device("cpu")
    return widened(arg, torch.float64) if isinstance(arg, torch.dtype) else arg


_DTYPES = {"i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
           "u8": torch.uint8, "b1": torch.bool, "complex64": torch.complex128,
           "complex128": torch.complex128}  # fmt: skip


def _dtype(value: Value) -> torch.dtype:
    return _DTYPES.get(value.dtype, torch.float64)
