"""Edges of a network as lanes beside its nodes, one row a node: where lines run, begin and end.

A value's lane begins at the row of its node and ends at the last node that takes it. What goes on from a node keeps
the lane that ended there, so that a residual stream is one straight line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One node's row. `lane`: of the node; `through`: (source, lane) that pass by; `taken`: (source, its lane) that come in;
    `goes_on`: whether anything later takes what it gives."""

    lane: int
    through: tuple[tuple[int, int], ...]
    taken: tuple[tuple[int, int], ...]
    goes_on: bool


def lanes(nodes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each node; nodes stand in order, `from` names earlier ones."""
    last: dict[int, int] = {}
    for at, node in enumerate(nodes):
        last.update({source: at for source in node["from"]})
    alive: dict[int, int] = {}  # source -> lane
    rows = []
    for at, node in enumerate(nodes):
        taken = tuple((source, alive[source]) for source in node["from"] if source in alive)
        ending = sorted(lane for source, lane in taken if last[source] == at)
        passing = tuple((s, lane) for s, lane in alive.items() if last[s] != at)
        lane = ending[0] if ending else _free({lane for _, lane in passing})
        rows.append(Row(lane, passing, taken, at in last))
        alive = dict(passing) | ({at: lane} if at in last else {})
    return rows


def _free(used: set[int]) -> int:
    return next(lane for lane in range(len(used) + 1) if lane not in used)
