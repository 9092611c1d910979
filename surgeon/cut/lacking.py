"""Constant scales that another width changes (1 / sqrt(head_dim)): by how much they fall short in the cut model's forward."""

from __future__ import annotations

from collections.abc import Mapping

from surgeon.cut.asked import asked
from surgeon.cut.flow import packet_of
from surgeon.graph import Graph, Node

Lacking = Mapping[int, float]  # node -> the factor that its result lacks in the cut model


def lacking(original: Graph, slim: Graph) -> dict[int, float]:
    """Nodes of the original whose constant scale is another one in the cut model's forward; not of what Python alone reads.

    Empty where the two forwards do not run the same ops. Where the original was recorded along
    several paths, the same line with the same constant lacks the same in each.
    """
    if [n.op for n in original.run] != [n.op for n in slim.run]:
        return {}
    found = {}
    lines = {}
    free = asked(original)
    for old, new in zip(original.run, slim.run, strict=True):
        if old.index not in free and (by := lack(old, new)) is not None:
            found[old.index] = by
            lines[old.module, old.source, old.op, old.args[1]] = by
    for node in original.nodes[len(original.run) :] if lines else ():
        line = (node.module, node.source, node.op, node.arg(1))
        if type(line[3]) in (int, float) and line in lines:
            found[node.index] = lines[line]
    return found


def _scale(node: Node) -> float | None:
    """The plain number that a node multiplies or divides by."""
    by = node.arg(1)
    return by if _packet(node) in ("aten.mul", "aten.div") and type(by) in (int, float) else None


def _packet(node: Node) -> str:
    """'aten.div' also of `x /= 2`."""
    return packet_of(node).rstrip("_")


def lack(old: Node, new: Node) -> float | None:
    """The factor that the result of one and the same op lacks, where its constant scale is another one."""
    a, b = _scale(old), _scale(new)
    if a is None or b is None or a == b or a * b <= 0:
        return None
    return a / b if _packet(old) == "aten.mul" else b / a


def stable(lacks: Lacking, first: Graph, second: Graph) -> dict[int, float]:
    """Those whose constant is the same on other data: the others are the data's, and no scale of a width."""
    if [n.op for n in first.run] != [n.op for n in second.run]:
        return {}
    same = [a.args[1:2] == b.args[1:2] for a, b in zip(first.run, second.run, strict=True)]
    return {i: by for i, by in lacks.items() if i >= len(same) or same[i]}
