"""A sensitivity as a plot: a line a group, the share of its channels that goes against what is left or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.errors import BadInput
from surgeon.files.atomic import whole

SUFFIXES = (".svg", ".png", ".pdf")
_NAMED = 16  # more lines than this are told apart by depth, not by name


def refuse_unknown(path: Path) -> None:
    """BadInput for a file that no plot is written to."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"--plot {path}: no such kind of plot", f"end it in {', '.join(SUFFIXES)}")


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the plot of a `Sensitivity.as_dict()`."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    dense, groups = found["data"]["dense"].get("top1"), found["groups"]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["viridis"]
    for number, group in enumerate(groups):
        points = [p for p in group["points"] if p["error"] < 1e6]
        left = (
            [100 * p["top1"] for p in points] if dense is not None else [p["error"] for p in points]
        )
        at = [100 * p["gone"] / group["size"] for p in points]
        start = 100 * dense if dense is not None else 0.0
        colour = colours(number / max(len(groups) - 1, 1))
        axes.plot([0, *at], [start, *left], color=colour, marker=".", label=group["name"])
    axes.set_xlabel("channels of one group that are gone (%)")
    axes.set_ylabel("top-1 (%)" if dense is not None else "output error (of the outputs' variance)")
    axes.set_title(
        f"{found['model'].get('source') or 'network'}, {found['data']['examples']} examples"
    )
    if len(groups) <= _NAMED:
        axes.legend(fontsize="small")
    else:
        axes.text(0.01, 0.01, "dark: first groups, light: last", transform=axes.transAxes)
    with whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=_UNDATED.get(path.suffix))


_UNDATED = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}  # the same numbers, the same file
