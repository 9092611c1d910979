"""The network's rows as the page draws them: lanes beside each node, a colour a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from surgeon.report.lanes import Row, lanes

HIGH = 26  # of a row, in pixels
_WIDE, _PITCH = 150, 12  # of all lanes together, and of one
_TURN = 137.508  # degrees: hues of neighbours are far apart, however many there are


def drawn(network: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each node: what stands in its cells, and its part of the edges as SVG."""
    nodes, groups = network["nodes"], network["groups"]
    rows = lanes(nodes)
    used = 1 + max((lane for r in rows for lane in _lanes(r)), default=0)
    pitch = min(_PITCH, max(3.0, _WIDE / used))
    wide = round(pitch * used + 8)
    colour = [_mark(node) for node in nodes]
    found = []
    for at, (node, row) in enumerate(zip(nodes, rows, strict=True)):
        state = _state(node, groups)
        found.append(
            {
                "at": at,
                "layer": node["layer"],
                "op": node["op"],
                "shape": shape(node["shape"]),
                "kept": shape(node["kept"]) if "kept" in node else "",
                "channels": _channels(node, groups),
                "state": state,
                "mark": colour[at],
                "wide": wide,
                "svg": _svg(at, row, pitch, colour),
            }
        )
    return found


def hues(network: Mapping[str, Any]) -> list[int]:
    """A hue for each group."""
    return [round(at * _TURN) % 360 for at in range(len(network["groups"]))]


def shape(sizes: Sequence[int]) -> str:
    """'2×64×8×8'."""
    return "×".join(map(str, sizes))


def _lanes(row: Row) -> list[int]:
    return [row.lane, *(lane for _, lane in row.through), *(lane for _, lane in row.taken)]


def _mark(node: Mapping[str, Any]) -> str:
    """The class that colours it."""
    return f"g{int(node['groups'][0])}" if node.get("groups") else "none"


def _state(node: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    """'cut' where a group that it carries lost channels, 'whole' where none did, 'none' where it carries none."""
    own = [groups[g] for g in node.get("groups", ())]
    if not own:
        return "none"
    return "cut" if any(g["kept"] < g["size"] for g in own) else "whole"


def _channels(
    node: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> tuple[int, int] | None:
    """Before and after: extent of the dimension that was cut; else channels of the group it carries most of."""
    before, after = node["shape"], node.get("kept", node["shape"])
    cut = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    if cut:
        return max(cut)
    own = [groups[g] for g in node.get("groups", ())]
    return (own[0]["size"], own[0]["kept"]) if own else None


def _svg(at: int, row: Row, pitch: float, colour: Sequence[str]) -> Markup:
    """Lines that pass, come in and go on; then the node. Only numbers and our own class names go in, bare: there are
    twenty thousand lines in a large DenseNet."""

    def x(lane: int) -> str:
        return f"{6 + lane * pitch:.4g}"

    middle, own = HIGH // 2, x(row.lane)
    parts = [
        f"<path class={colour[s]} data-s={s} d=M{x(lane)},0V{HIGH} />" for s, lane in row.through
    ]
    for s, lane in row.taken:
        start = x(lane)
        bend = f"V{middle}" if lane == row.lane else f"C{start},{middle},{own},0,{own},{middle}"
        parts.append(f"<path class={colour[s]} data-s={s} d=M{start},0{bend} />")
    if row.goes_on:
        parts.append(f"<path class={colour[at]} data-s={at} d=M{own},{middle}V{HIGH} />")
    parts.append(f"<circle class={colour[at]} cx={own} cy={middle} r=4.5 />")
    return Markup("".join(parts))
