"""Ops that choose by value or by computed position: sorting, what is not zero, boxes, regions of a map.

How many there are, or which, depends on the data: that dimension is read by position. The others pass.
"""

from __future__ import annotations

import re

from surgeon.graph import Node, Value
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "selection"

factor("aten.nonzero", "* -> _ _", family=FAMILY)
factor("aten._unique2", "* -> _, *, *", family=FAMILY)
factor("aten.masked_select", "*, * -> _", family=FAMILY)

factor("torchvision.nms", "_ _, _ -> _", family=FAMILY)
factor("torchvision.roi_align", "_ c _ _, _ _ -> _ c _ _", family=FAMILY)
factor("torchvision.roi_pool", "_ c _ _, _ _ -> _ c _ _, _ c _ _", family=FAMILY)

DEFORMED = "_ (g e i) _ _, (g o) (e i) _ _, _ (g e p) _ _, _ (g e q) _ _, (g o) -> _ (g o) _ _"
DEFORMED_FINELY = "_ (e g i) _ _, (e g o) i _ _, _ (e p) _ _, _ (e q) _ _, (e g o) -> _ (e g o) _ _"
DEFORMED_APART = "_ _ _ _, _ _ _ _, _ _ _ _, *, _ -> _ _ _ _"
_ASTRIDE = (
    "has groups of channels and runs with offsets of their own, neither of which holds the other"
)


@chooses("torchvision.deform_conv2d", family=FAMILY, forms=(DEFORMED, DEFORMED_FINELY))
def deform_conv2d(node: Node) -> Form:
    """A convolution that reads where its offsets say. e runs of channels have offsets of their own, two
    for each place of the kernel: the runs of a group, or the groups of a run."""
    groups, runs, masked = node.arg(11), node.arg(12), node.arg(13)
    places = node.args[1].shape[2] * node.args[1].shape[3]
    if groups % runs and runs % groups:
        return Form(DEFORMED_APART, why=_ASTRIDE)
    nested = runs % groups == 0
    line = DEFORMED if nested else DEFORMED_FINELY
    sizes = {"g": groups, "e": runs // groups} if nested else {"g": groups // runs, "e": runs}
    if not masked:
        line = re.sub(r"_ \([a-z ]*q\) _ _", "*", line)
    fixed = {x: "takes a fixed number of them for each place of its kernel" for x in "pq"}
    return Form(line, {**sizes, "p": 2 * places, "q": places}, fixed=fixed)


factor("aten.bucketize", "..., _ -> ...", family=FAMILY)
factor("aten.isin", "..., * -> ...", family=FAMILY)


@chooses("aten.searchsorted", family=FAMILY, forms=("_, ... -> ...", "... _, ... _ -> ... _"))
def searchsorted(node: Node) -> Form:
    """(sorted, x): one row for all of x, or a row for each of its rows."""
    one = len(node.args[0].shape) == 1
    return Form("_, ... -> ..." if one else "... _, ... _ -> ... _", at=(0, 1))


@chooses(
    "aten.masked_scatter",
    family=FAMILY,
    forms=("* c, * c, * c -> * c", "* c, * 1, * c -> * c", "*, *, * -> *"),
)
def masked_scatter(node: Node) -> Form:
    """(x, mask, source): the elements of the source in their order where the mask says. Where the mask is
    one along the last dimensions, these go there whole."""
    x, mask, source = node.args
    if len(mask.shape) < len(x.shape):
        return Form("*, *, * -> *")
    letters = "abcdefgh"[: len(x.shape)]
    own, said = list[str](), list[str]()
    for letter, size, theirs, width, step in zip(
        letters,
        *(reversed(t) for t in (x.shape, source.shape, mask.shape, mask.stride)),
        strict=False,
    ):
        if size != theirs or (step != 0 and width != 1):
            break
        own.insert(0, letter)
        said.insert(0, "1" if width == 1 else letter)
    x_line, mask_line = " ".join(["*", *own]), " ".join(["*", *said])
    return Form(f"{x_line}, {mask_line}, {x_line} -> {x_line}")


@chooses("aten.slice_scatter", "aten.select_scatter", family=FAMILY,
         forms=("a _ b, a _ b -> a _ b", "a _ b, a b -> a _ b"))  # fmt: skip
def placed(node: Node) -> Form:
    """(x, source, dim, ...): written to positions of one dimension that the code names."""
    rank, dim = len(node.args[0].shape), node.arg(2, 0)
    terms = _terms(rank, dim)
    source = terms
    if node.op.startswith("aten.select_scatter"):
        source = " ".join(t for t in terms.split() if t != "_")
    return Form(f"{terms}, {source} -> {terms}", at=(0, 1))


@chooses("aten.kthvalue", family=FAMILY, forms=("a _ b -> a b, a b",))
def kthvalue(node: Node) -> Form:
    """(x, k, dim, keepdim): along `dim` one element is chosen by its rank."""
    terms = _terms(len(node.args[0].shape), node.arg(2, -1))
    out = " ".join(t for t in terms.replace("_", "1" if node.arg(3, False) else "").split())
    return Form(f"{terms} -> {out}, {out}", at=(0,))


@chooses("aten.sort", "aten.topk", family=FAMILY, forms=("a _ b -> a _ b, a _ b",))
def ordered(node: Node) -> Form:
    """sort(x, dim) or topk(x, k, dim): along `dim` elements are chosen by value."""
    dim = node.kwargs.get("dim", node.arg(2 if node.op.startswith("aten.topk") else 1, -1))
    terms = _terms(len(node.args[0].shape), dim)
    return Form(f"{terms} -> {terms}, {terms}", at=(0,))


@chooses("aten.gather", family=FAMILY, forms=("a _ b, a _ b -> a _ b",))
def gather(node: Node) -> Form:
    """(x, dim, index): positions along one dimension, chosen for every element of the others."""
    x, dim, index = node.args[:3]
    terms = _terms(len(x.shape), dim, _unequal(x, index))
    return Form(f"{terms}, {terms} -> {terms}", at=(0, 2))


@chooses(
    "aten.scatter",
    "aten.scatter_add",
    "aten.scatter_reduce",
    family=FAMILY,
    forms=("a _ b, a _ b, a _ b -> a _ b",),
)
def scatter(node: Node) -> Form:
    """(x, dim, index, source), the source a tensor or a number: written to positions along one dimension."""
    x, dim, index, source = node.args[:4]
    at = (0, 2, 3) if isinstance(source, Value) else (0, 2)
    apart = _unequal(x, index) | (_unequal(x, source) if len(at) == 3 else set())
    terms = _terms(len(x.shape), dim, apart)
    return Form(", ".join(terms for _ in at) + f" -> {terms}", at=at)


@chooses("aten.index_add", "aten.index_copy", family=FAMILY, forms=("a _ b, _, a _ b -> a _ b",))
def index_add(node: Node) -> Form:
    """(x, dim, index, source): whole slices written to, or added at, positions of one dimension."""
    terms = _terms(len(node.args[0].shape), node.args[1])
    return Form(f"{terms}, *, {terms} -> {terms}", at=(0, 2, 3))


@chooses("aten.index_fill", family=FAMILY, forms=("a _ b, _ -> a _ b",))
def index_fill(node: Node) -> Form:
    """(x, dim, index, value): one number written to positions of one dimension."""
    terms = _terms(len(node.args[0].shape), node.args[1])
    return Form(f"{terms}, * -> {terms}", at=(0, 2))


def _terms(rank: int, dim: int, apart: set[int] | None = None) -> str:
    """'a _ c': one letter a dimension, `_` at `dim` and where the operands do not match."""
    read = {dim % max(rank, 1), *(apart or ())}
    return " ".join("_" if d in read else x for d, x in enumerate("abcdefgh"[:rank]))


def _unequal(a: Value, b: Value) -> set[int]:
    return {d for d, (n, m) in enumerate(zip(a.shape, b.shape, strict=True)) if n != m}
