"""Convolutions, matrix products, embeddings: what contracts one axis and makes another."""

from __future__ import annotations

from surgeon.graph import Node
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "contraction"
CONV = "n (g i) *, (g o) i *, (g o) -> n (g o) *"
CONV_TRANSPOSED = "n (g i) *, (g i) o *, (g o) -> n (g o) *"


@chooses("aten.convolution", family=FAMILY, forms=(CONV, CONV_TRANSPOSED))
def convolution(node: Node) -> Form:
    """1-, 2- and 3-D; depthwise is g = channels, i = 1."""
    return Form(CONV_TRANSPOSED if node.arg(6) else CONV, {"g": node.arg(8, 1)})


@chooses("aten.mkldnn_convolution", family=FAMILY, forms=(CONV,))
def mkldnn_convolution(node: Node) -> Form:
    """The CPU's own convolution: (x, weight, bias, padding, stride, dilation, groups)."""
    return Form(CONV, {"g": node.arg(6, 1)})


@chooses("aten.addmm", family=FAMILY, forms=("n, m k, k n -> m n", "m n, m k, k n -> m n"))
def addmm(node: Node) -> Form:
    """The bias is a row, or a whole matrix."""
    return Form(f"{_broadcast(node, 'm n')}, m k, k n -> m n")


@chooses("aten.baddbmm", family=FAMILY, forms=("b m n, b m k, b k n -> b m n",))
def baddbmm(node: Node) -> Form:
    """What is added may lack leading dimensions."""
    return Form(f"{_broadcast(node, 'b m n')}, b m k, b k n -> b m n")


def _broadcast(node: Node, terms: str) -> str:
    """Terms of a first argument that is broadcast from the right."""
    rank = len(node.args[0].shape)
    return " ".join(terms.split()[-rank:]) if rank else ""


factor("aten.mm", "m k, k n -> m n", family=FAMILY)
factor("aten.bmm", "b m k, b k n -> b m n", family=FAMILY)
factor("aten.mv", "m k, k -> m", family=FAMILY)
factor("aten.dot", "k, k ->", family=FAMILY)
factor("aten.linear", "... i, o i, o -> ... o", family=FAMILY)
factor("aten.embedding", "_ c, * -> * c", family=FAMILY)
factor("aten.outer", "m, n -> m n", family=FAMILY)
