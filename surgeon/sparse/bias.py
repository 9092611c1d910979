"""Biases: what a node adds by itself, and which of its elements could take a shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surgeon.graph import Node, Value
from surgeon.sparse.facts import Facts, is_norm, norm_factor, packet_of, product_of


@dataclass(frozen=True)
class Bias:
    """What a node adds by itself: the value, how it lies in the result, and what it is scaled by (None: one)."""

    value: Value
    shape: list[int]
    by: Tensor | None = None


def bias_of(node: Node, facts: Facts) -> Bias | None:
    """A product's bias, a batch norm's shift (else its running mean), or a state tensor in a sum; None without."""
    out = node.outputs[0]
    assert out is not None
    rank = len(out.shape)
    along = [1, -1, *[1] * (rank - 2)]
    if is_norm(node):
        if node.args[2] is not None:
            return Bias(node.args[2], along)
        return Bias(node.args[3], along, -norm_factor(node, facts))  # its running mean
    product = product_of(node)
    found = node.arg(product.bias) if product is not None and product.bias is not None else None
    if found is not None and "convolution" in node.op:
        return Bias(found, along)
    if found is None and packet_of(node) == "aten.add" and not node.kwargs:
        found = next((x for x in node.args if isinstance(x, Value) and x.state), None)
    return (
        None if found is None else Bias(found, [1] * (rank - len(found.shape)) + list(found.shape))
    )


def ends(out: Tensor, kept: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
    """The least and the largest shift among the kept elements that each element of a bias is added to."""
    dims = [d for d, n in enumerate(shape) if n == 1 and out.shape[d] != 1]
    low = torch.where(kept, out, torch.inf)
    high = torch.where(kept, out, -torch.inf)
    return (low.amin(dims, keepdim=True), high.amax(dims, keepdim=True)) if dims else (low, high)
