"""Windows over space: pools and nearest neighbours. A dimension whose windows are one element each, and that one, passes.

x[b, 1, 12, d] --avg_pool2d(kernel (2, 1))--> [b, 1, 6, d]: tokens are read by position, channels pass
"""

from __future__ import annotations

from collections.abc import Sequence

from surgeon.graph import Node
from surgeon.rules.registry import Form, chooses

FAMILY = "reduction"
_PASSING = "xyz"  # letters of dimensions in space
_KINDS = ("upsample_nearest", "_upsample_nearest_exact")
NEAREST = tuple(f"aten.{kind}{rank}d" for kind in _KINDS for rank in (1, 2, 3))


@chooses(
    "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten.max_pool1d",
    family=FAMILY, forms=("... _ -> ... _", "... x -> ... x"),
)  # fmt: skip
def pool(node: Node) -> Form:
    """(x, kernel, stride, ...)"""
    line, _ = _terms(_single(node))
    return Form(f"{line} -> {line}")


@chooses(
    "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices",
    family=FAMILY, forms=("... _ _ -> ... _ _, ... _ _", "... _ y -> ... _ y, ... _ y"),
)  # fmt: skip
def pool_with_places(node: Node) -> Form:
    """The same with the place of each largest element, counted through all of space: it is another one where a dimension
    that passes is cut."""
    line, passing = _terms(_single(node))
    return Form(f"{line} -> {line}, {line}", told=passing)


@chooses(*NEAREST, family=FAMILY, forms=("n c _ -> n c _", "n c x -> n c x"))
def nearest(node: Node) -> Form:
    """(x, sizes, scales one by one), or (x, sizes or None, scales): what is asked to be as large as it is passes."""
    space = _terms(_as_large(node))[0].removeprefix("...")
    return Form(f"n c{space} -> n c{space}", at=(0,))


def _terms(passing: Sequence[bool]) -> tuple[str, str]:
    """'... _ y' and 'y' where the second of two dimensions in space passes."""
    letters = [x if one else "_" for x, one in zip(_PASSING, passing, strict=False)]
    return " ".join(["...", *letters]), "".join(letters).replace("_", "")


def _single(node: Node) -> list[bool]:
    """Which dimensions in space have windows of one element, one after the other; torch lets none of these stand in a frame."""
    rank = int(node.op[node.op.index("pool") + len("pool")])
    kernel = _each(node.args[1], rank)
    stride = _each(node.arg(2) or kernel, rank)
    return [pair == (1, 1) for pair in zip(kernel, stride, strict=True)]


def _each(given: int | Sequence[int], rank: int) -> list[int]:
    many = [given] if isinstance(given, int) else list(given)
    return many * rank if len(many) == 1 else many


def _as_large(node: Node) -> list[bool]:
    """Which dimensions in space keep their size, and are told no scale that says otherwise (1.2 of three is three)."""
    old = node.args[0].shape[2:]
    told = node.arg(2) if isinstance(node.arg(2), (list, tuple)) else node.args[2:]
    scales = (*(told or ()), None, None, None)[: len(old)]
    if node.args[1] is None:
        return [scale == 1 for scale in scales]
    asked = zip(old, node.args[1], scales, strict=True)
    return [new == size and scale in (None, 1) for size, new, scale in asked]
