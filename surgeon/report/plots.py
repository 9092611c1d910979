"""The plots of report.html, each from report.json's data: what is won, widths along the network, time by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from surgeon.report.figure import AFTER, BEFORE, INK, MARK, drawing, svg

_ROW = 46  # pixels of a pair of bars
_SHOWN = 16  # layers in the plot of times; the table has all
Cost = Mapping[str, Any]


def costs(rows: Sequence[Cost]) -> Markup:
    """Pairs of bars, the original being 100 %. rows: what, share, limit where one was asked for, and where timed before and
    after as [low, high] shares."""
    label = "After the cut, of the original: " + "; ".join(
        f"{row['what']} {100 * row['share']:.1f} %" for row in rows
    )
    with drawing(460, _ROW * len(rows) + 40) as figure:
        axes = figure.add_subplot()
        for at, row in enumerate(rows):
            axes.barh(at - 0.19, 100, 0.34, color=BEFORE, edgecolor="none")
            axes.barh(at + 0.19, 100 * row["share"], 0.34, color=AFTER, edgecolor="none")
            _interval(axes, at - 0.19, row.get("before"))
            _interval(axes, at + 0.19, row.get("after"))
            if row.get("limit"):
                axes.vlines(100 * row["limit"], at - 0.44, at + 0.44, color=MARK, linewidth=2)
        axes.set_yticks(range(len(rows)), [row["what"] for row in rows], color=INK)
        axes.invert_yaxis()
        ends = [e for r in rows for e in (r["share"], *r.get("before", ()), *r.get("after", ()))]
        axes.set_xlim(0, 100 * max(1.0, *ends) * 1.04)
        axes.set_xlabel("% of the original")
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        return svg(figure, "costs", label)


def _interval(axes: Any, y: float, edges: Sequence[float] | None) -> None:
    if edges:
        low, high = (100 * edge for edge in edges)
        half = (high - low) / 2
        axes.errorbar(low + half, y, xerr=half, color=INK, capsize=3, linewidth=1.2)


def widths(layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Channels that each layer makes, in order of the forward: before behind, after in front."""
    before, after = ([layer["out"][k] for layer in layers] for k in (0, 1))
    edges = [at + 0.5 for at in range(len(layers) + 1)]
    label = (
        f"Channels of {len(layers)} layers in order of the forward, before and after: "
        f"{sum(before)} and {sum(after)} in all; the table has each"
    )
    with drawing(920, 220) as figure:
        axes = figure.add_subplot()
        axes.stairs(before, edges, fill=True, color=BEFORE, linewidth=0)
        axes.stairs(after, edges, fill=True, color=AFTER, linewidth=0)
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layers in order of the forward")
        axes.set_ylabel("channels")
        axes.grid(True, axis="y")
        axes.spines["left"].set_visible(False)
        return svg(figure, "widths", label)


def times(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Milliseconds of the layers whose time changed most, before and after. rows: layer, before, after in seconds or None."""
    shown = sorted(rows, key=lambda r: -abs((r["before"] or 0) - (r["after"] or 0)))[:_SHOWN]
    label = "Layers whose time changed most, milliseconds before and after: " + "; ".join(
        f"{_end(r['layer'])} {_ms(r['before'])} and {_ms(r['after'])}" for r in shown[:5]
    )
    with drawing(640, 34 * len(shown) + 40) as figure:
        axes = figure.add_subplot()
        for shift, key, colour in ((-0.19, "before", BEFORE), (0.19, "after", AFTER)):
            values = [1e3 * (r[key] or 0) for r in shown]
            at = [n + shift for n in range(len(shown))]
            axes.barh(at, values, 0.34, color=colour, edgecolor="none")
        axes.set_yticks(range(len(shown)), [_end(r["layer"]) for r in shown], color=INK)
        axes.invert_yaxis()
        axes.set_xlabel("ms")
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
        return svg(figure, "times", label)


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1e3 * seconds:.3g} ms"


def _end(layer: str, shown: int = 36) -> str:
    return layer if len(layer) <= shown else "…" + layer[-shown:]
