"""sweep.html: what each limit cost, the front, and a table that picks; from sweep.json's data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from surgeon.report import text
from surgeon.report.commands import commands
from surgeon.report.figure import AFTER, BEFORE, INK, PICKED, drawing, svg
from surgeon.report.sweep import QUALITIES, best, compared_by, front, named, quality, speed
from surgeon.report.web import embedded, fill, readable

Sweep = Mapping[str, Any]
_SCALES = {"accuracy": 100, "params": 100}  # shown in percent, parameters of the original's


def sweep_page(found: Sweep) -> str:
    """The page of sweep.json's data, as it was read from the file."""
    found = readable(found)
    which, on_front = compared_by(found), front(found)
    cuts = [
        _cut(at, one, which, on_front[at]) | {"commands": _commands(found, one)}
        for at, one in enumerate(found["rows"])
        if "why" not in one
    ]
    picked = best(found)
    given = {
        "title": found["model"].get("source") or "a network",
        "found": found,
        "cuts": cuts,
        "failed": [one for one in found["rows"] if "why" in one],
        "dense": _said({**found["dense"], "ratio": None}, which),
        "quality": named(found, which),
        "which": which,
        "picked": picked,
        "plot": _plot(found, which, on_front)
        if any(c["ratio"] is not None for c in cuts)
        else None,
        "data": embedded({"picked": picked, "sign": QUALITIES[which], "rows": cuts}),
    }
    return fill("sweep.html", ("common.js", "sweep.js"), given)


def _cut(at: int, one: Mapping[str, Any], which: str, on_front: bool) -> dict[str, Any]:
    """A row of the table: numbers to sort by, and as they are read."""
    place = PurePosixPath(one["folder"])
    return {
        "at": at,
        "limit": one["limit"],
        "met": one["met"],
        "front": on_front,
        "folder": one["folder"],
        "link": "./" + quote(str(place / "report.html")),
        "ratio": speed(one),
        "seconds": (one["latency_s"] or {}).get("value"),
        "size": one["size"],
        "params": one["params"],
        "flops": one["flops"],
        "quality": quality(one, which),
        "said": _said(one, which),
    }


def _said(one: Mapping[str, Any], which: str) -> dict[str, str]:
    ratio, latency, value = one["ratio"], one["latency_s"], quality(one, which)
    between = f"{ratio['value']:.3f}x [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "–"
    return {
        "ratio": between,
        "seconds": text.seconds(latency["value"]) if latency else "–",
        "size": "–" if one["size"] is None else text.size(one["size"]),
        "params": f"{one['params']:,}",
        "flops": f"{one['flops']:,}",
        "quality": _number(value, which),
    }


def _number(value: float | None, which: str) -> str:
    if value is None:
        return "–"
    forms = {"accuracy": f"{value:.1%}", "params": f"{value:,.0f}", "metric": f"{value:.6g}"}
    return forms.get(which, text.digits(value))


def _commands(found: Sweep, one: Mapping[str, Any]) -> list[dict[str, str]]:
    place = str(PurePosixPath(found.get("output") or ".") / one["folder"])
    files = dict.fromkeys(("slim.pth", "slim.onnx"), 1)
    own = commands({"output": place, "files": files, "model": {}})
    return [c for c in own if c["what"] in ("Load in PyTorch", "Run in ONNX Runtime")]


def _plot(found: Sweep, which: str, on_front: Sequence[bool]) -> Markup:
    """Time against quality: every cut with its interval, the front as steps, the original."""
    scale = _SCALES.get(which, 1) / (found["dense"]["params"] if which == "params" else 1)
    points = [
        (at, one["ratio"], scale * (quality(one, which) or 0))
        for at, one in enumerate(found["rows"])
        if "why" not in one and one["ratio"]
    ]
    line = sorted((r["value"], y) for at, r, y in points if on_front[at])
    label = (
        f"Latency, as a share of the original's, against {named(found, which)} of {len(points)} cuts; on the front: "
        + "; ".join(f"{x:.3f} and {y:.4g}" for x, y in line)
    )
    with drawing(640, 380) as figure:
        axes = figure.add_subplot()
        dense = quality(found["dense"], which)
        if dense is not None:
            axes.plot(
                [1], [scale * dense], marker="o", color=INK, markerfacecolor="none", linestyle=""
            )
        if line:
            axes.step(*zip(*line, strict=True), where="post", color=AFTER, linewidth=1.4)
        for at, ratio, y in points:
            colour, half = AFTER if on_front[at] else BEFORE, (ratio["high"] - ratio["low"]) / 2
            axes.errorbar(ratio["low"] + half, y, xerr=half, color=colour, capsize=3, linewidth=1)
            axes.plot(
                [ratio["value"]], [y], marker="o", color=colour, gid=f"{PICKED}{at}", linestyle=""
            )
        axes.set_xlabel("latency, of the original's")
        axes.set_ylabel(named(found, which) + (", %" if which in _SCALES else ""))
        axes.grid(True, axis="both")
        return svg(figure, "front", label)
