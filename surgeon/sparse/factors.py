"""Products of partly known factors: what a result surely is, where it is open, and who has a part in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.graph import Node, Value
from surgeon.sparse.facts import Facts, Product, indicate, multiply


@dataclass(frozen=True)
class Part:
    """A factor's numbers, and 1 where they are not known."""

    number: Tensor
    open: Tensor

    @staticmethod
    def of(facts: Facts, value: Value) -> Part:
        """What is known of a value."""
        return Part(facts.number(value).double(), facts.open(value))

    @staticmethod
    def shift(shift: Tensor) -> Part:
        """A shift, NaN where it depends on the input."""
        return Part(shift.nan_to_num(), shift.isnan().float())


def times(node: Node, product: Product, a: Part, b: Part) -> Tensor:
    """The product; NaN where it reads an unknown number that is not times zero."""
    out = node.outputs[0]
    assert out is not None
    none = torch.zeros(out.shape, dtype=torch.float64)
    weighs = [((x.number != 0) | (x.open > 0)).float() for x in (a, b)]
    if not all(bool(w.any()) for w in weighs):
        return none
    total = none
    if bool(a.number.any()) and bool(b.number.any()):
        total = multiply(node, product, a.number, b.number).expand(out.shape).clone()
    for one, other in ((a.open, weighs[1]), (weighs[0], b.open)):
        if bool(one.any()) and bool(other.any()):
            total[(indicate(node, product, one, other) > 0.5).expand(out.shape)] = torch.nan
    return total


def read_by(node: Node, product: Product, value: Value, facts: Facts, wanted: Tensor) -> Tensor:
    """For each element of a factor, how much of the `wanted` results it has a part in: their gradient."""
    own = torch.ones(value.shape, requires_grad=True)
    a, b = node.args[product.a], node.args[product.b]
    with torch.enable_grad():
        shown = [own if x is value else facts.weighs(x) for x in (a, b)]
        out = indicate(node, product, shown[0], shown[1], wanted)
        joined = [d for d in range(2, out.dim()) if out.shape[d] != wanted.shape[d]]
        asked = wanted.float().amax(joined, keepdim=True) if joined else wanted
        (grad,) = torch.autograd.grad((out * asked).sum(), own)
        if joined:  # of equal elements along what is joined, one may have all of the gradient
            grad = grad.abs().amax(joined, keepdim=True).expand(value.shape)
    return grad
