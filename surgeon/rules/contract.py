"""Convolutions, matrix products, embeddings: what contracts one axis and makes another."""

from __future__ import annotations

from surgeon.graph import Node
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "contraction"
CONV = "n (g i) *, (g o) i *, (g o) -> n (g o) *"
CONV_TRANSPOSED = "n (g i) *, (g i) o *, (g o) -> n (g o) *"


POINTWISE = "n (g i) x y, (g o) i 1 1, (g o) -> n (g o) x y"
SPANNING = "n (g i) * x, (g o) i * x, (g o) -> n (g o) * 1"


@chooses("aten.convolution", family=FAMILY, forms=(CONV, CONV_TRANSPOSED, POINTWISE, SPANNING))
def convolution(node: Node) -> Form:
    """1-, 2- and 3-D; depthwise is g = channels, i = 1. Where the kernel is one wide and moves in
    steps of one, every position is by itself: what lies there may be channels of something else. Where it
    spans all there is, it sums over it."""
    space = [_along(node, d) for d in range(len(node.args[1].shape) - 2)]
    if all(read == ("_", "_", "_") for read in space):
        return Form(CONV_TRANSPOSED if node.arg(6) else CONV, {"g": node.arg(8, 1)})
    x, kernel, out = (" ".join(letters) for letters in zip(*space, strict=True))
    own = "(g i) o" if node.arg(6) else "(g o) i"
    line = f"n (g i) {x}, {own} {kernel}, (g o) -> n (g o) {out}"
    return Form(line, {"g": node.arg(8, 1)})


def _along(node: Node, d: int) -> tuple[str, str, str]:
    """How a dimension of space is called in the input, the weight and the result; '_' is read by position."""
    letter, kernel, size = "xyz"[d], node.args[1].shape[2 + d], node.args[0].shape[2 + d]
    stride, padding, dilation, added = (
        given[d] if len(given) > 1 else given[0]
        for given in (node.arg(3), node.arg(4), node.arg(5), node.arg(7))
    )
    if (kernel, stride, padding, added) == (1, 1, 0, 0):
        return letter, "1", letter
    if kernel == size > 1 and (padding, dilation) == (0, 1) and not node.arg(6):
        return letter, letter, "1"
    return "_", "_", "_"


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


_GROUPED = "_ k, _ k n, * -> _ n"


@chooses("aten._grouped_mm", family=FAMILY, forms=(_GROUPED, "b m k, b k n -> b m n"))
def grouped_mm(node: Node) -> Form:
    """(a, b, ends, bias): runs of rows of `a`, each times its own matrix of `b` (mixtures of experts)."""
    ranks = tuple(len(v.shape) for v in node.args[:2])
    if ranks == (2, 3):
        return Form(_GROUPED, at=(0, 1, 2))
    if ranks == (3, 3):
        return Form("b m k, b k n -> b m n", at=(0, 1))
    line = "m _, _ n, * -> _ m n" if ranks == (2, 2) else "_ m k, k _, * -> m _"
    return Form(line, at=(0, 1, 2))


# how transformers has a mixture's experts exported where torch has no kernel for them
factor("transformers.grouped_mm_fallback", _GROUPED, family=FAMILY)


@chooses("aten.addbmm", family=FAMILY, forms=("m n, b m k, b k n -> m n",))
def addbmm(node: Node) -> Form:
    """The products of a batch are added up, too."""
    return Form(f"{_broadcast(node, 'm n')}, b m k, b k n -> m n")


@chooses("aten.addmv", family=FAMILY, forms=("m, m k, k -> m",))
def addmv(node: Node) -> Form:
    """What is added may be one number."""
    return Form(f"{_broadcast(node, 'm')}, m k, k -> m")


@chooses("aten.addr", family=FAMILY, forms=("m n, m, n -> m n",))
def addr(node: Node) -> Form:
    """What is added may lack dimensions."""
    return Form(f"{_broadcast(node, 'm n')}, m, n -> m n")


# Distances: what is zero in both adds nothing. Not those by matrix product (aten._euclidean_dist): of
# rows from themselves the smallest are rounding alone, another with every cut.
factor("aten._cdist_forward", "... m k, ... n k -> ... m n", family=FAMILY)
factor("aten._pdist_forward", "_ k -> _", family=FAMILY)

factor("aten.mm", "m k, k n -> m n", family=FAMILY)
factor("aten.bmm", "b m k, b k n -> b m n", family=FAMILY)
factor("aten.mv", "m k, k -> m", family=FAMILY)
factor("aten.dot", "k, k ->", family=FAMILY)
factor("aten.linear", "... i, o i, o -> ... o", family=FAMILY)
factor("aten.embedding", "_ c, * -> * c", family=FAMILY)
factor("aten.outer", "m, n -> m n", family=FAMILY)
factor("aten.affine_grid_generator", "n _ _ -> n *", family=FAMILY)


@chooses("aten.linalg_cross", family=FAMILY, forms=("a _ b, a _ b -> a _ b",))
def cross(node: Node) -> Form:
    """(x, y, dim): along `dim` three numbers, each of the others' product."""
    rank, dim = len(node.args[0].shape), node.kwargs.get("dim", -1)
    line = " ".join("_" if d == dim % rank else x for d, x in enumerate("abcdefgh"[:rank]))
    return Form(f"{line}, {line} -> {line}")


@chooses("aten._embedding_bag", "aten._embedding_bag_forward_only", family=FAMILY,
         forms=("_ c, *, * -> _ c, *, *, *",))  # fmt: skip
def embedding_bag(node: Node) -> Form:
    """(weight, indices, offsets, ...): each bag's rows make one. Of the outputs only the first is read."""
    weights = ", *" if node.arg(6) is not None else ""
    return Form(f"_ c, *, *{weights} -> _ c, *, *, *")


@chooses("aten._trilinear", family=FAMILY, forms=("n i, o i j, n j -> n o",))
def trilinear(node: Node) -> Form:
    """A product of three over dimensions that each lacks some of: nn.Bilinear's."""
    lacks = [set(node.args[k]) for k in (3, 4, 5)]
    rank = len(node.args[0].shape) + len(lacks[0])
    letters = "abdefhijklmopqrs"[:rank]
    terms = [" ".join(x for i, x in enumerate(letters) if i not in out)
             for out in (*lacks, set(node.args[6]))]  # fmt: skip
    return Form(f"{', '.join(terms[:3])} -> {terms[3]}")
