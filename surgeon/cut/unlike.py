"""Where a cut copy does something else by a number in its code: a width that is added, a loop as long as a width.

Asked once numbers have shown that something is wrong, though every size is as planned.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from surgeon.cut.fits import wanted
from surgeon.cut.sizes import Sizes
from surgeon.graph import Graph, Node

_Line = tuple[str, str, str]  # module, source, op


def unlike(original: Graph, slim: Graph, sizes: Sizes) -> int | None:
    """The original's first node whose line is given another plain number in the cut copy, or is run there another number of
    times; on a cut dimension, where there is one. None where there is none."""
    first: dict[_Line, int] = {}
    touched: dict[_Line, int] = {}
    known: dict[_Line, set[tuple[Any, ...]]] = defaultdict(set)
    for node in original.nodes:
        known[_line(node)].add(_plain(wanted(node, sizes).args))
        first.setdefault(_line(node), node.index)
        if _touches(node, sizes):
            touched.setdefault(_line(node), node.index)
    counts = Counter(map(_line, original.run))
    counts.subtract(map(_line, slim.run))
    other = {line for line, by in counts.items() if by}
    other |= {_line(n) for n in slim.nodes if _plain(n.args) not in known[_line(n)]}
    other |= touched.keys() - set(map(_line, slim.nodes))
    found = [at for line, at in touched.items() if line in other]
    return min(found or (at for line, at in first.items() if line in other), default=None)


def _line(node: Node) -> _Line:
    return node.module, node.source, node.op


def _plain(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers among arguments, apart from lists of sizes."""
    return tuple(round(a, 12) if type(a) is float else a for a in args if type(a) in (int, float))


def _touches(node: Node, sizes: Sizes) -> bool:
    values = (*node.inputs, *(v for v in node.outputs if v is not None))
    return any(sizes.shape(v) != v.shape for v in values)
