"""A matplotlib figure as SVG that belongs to the page: the page's fonts and colours, ids of its own, a label for readers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from surgeon.quiet import quiet

# Colours that stand for variables of the style sheet, so that one drawing serves light and dark.
INK, MUTED, GRID, BEFORE, AFTER, MARK = (f"#00000{n}" for n in range(1, 7))
_NAMES = {INK: "ink", MUTED: "muted", GRID: "line", BEFORE: "before", AFTER: "after", MARK: "mark"}
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PICKED = "pick-"  # ids (matplotlib's gid) that a script finds again
_REFERENCE = re.compile(r"#([\w.-]+)")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_DPI = 72  # one unit of the drawing is one pixel of the page


@contextmanager
def drawing(width: int, height: int) -> Iterator[Any]:
    """A figure of that many pixels, in the page's manner."""
    with quiet():  # matplotlib tells that it looks for fonts
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "surgeon",
        "font.size": 12,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": GRID,
        "axes.labelcolor": MUTED,
        "axes.grid.axis": "x",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 1,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with rc_context(settings):
        yield Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")


def svg(figure: Any, name: str, label: str) -> Markup:
    """The figure's SVG element. name: of its ids, one a page; label: what it shows, for who cannot see it."""
    from matplotlib import rc_context

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    written = io.StringIO()
    with quiet(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "surgeon"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    _without(root, ("metadata", "style"))
    used = set(_REFERENCE.findall(written.getvalue()))
    for element in root.iter():
        _tidy(element, name, used)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    wide = float(root.attrib["viewBox"].split()[2])
    root.attrib.update({"role": "img", "aria-label": label, "class": "plot"})
    root.set("style", f"--wide:{wide:g}px")
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _without(parent: ElementTree.Element, names: tuple[str, ...]) -> None:
    """What matplotlib says of itself goes, and so does its style, which would hold for the whole page."""
    for element in list(parent):
        if element.tag.removeprefix(f"{{{_SVG}}}") in names:
            parent.remove(element)
        else:
            _without(element, names)


def _tidy(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """No name spaces, ids that begin with the plot's name, variables instead of colours, the page's font."""
    element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    for key, value in list(element.attrib.items()):
        if key == f"{{{_LINK}}}href":
            del element.attrib[key]
            element.set("href", value.replace("#", f"#{name}-", 1))
        elif key == "id" and value not in used and not value.startswith(PICKED):
            del element.attrib[key]
        elif key == "id":
            element.set(key, f"{name}-{value}")
        elif key == "style":
            element.set(key, _styled(value))
        elif key == "clip-path":
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif key == "d":
            element.set(key, _LONG.sub(lambda found: f"{float(found[0]):.4g}", value))


def _styled(text: str) -> str:
    for colour, word in _NAMES.items():
        text = text.replace(colour, f"var(--{word})")
    return re.sub(r"font-family: [^;]*; ?", "", text)
