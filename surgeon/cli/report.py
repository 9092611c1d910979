"""`surgeon report`: the pages of a folder made anew from its numbers, and TensorBoard's event files where asked for."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="What shrink, apply or sweep wrote: holds report.json or sweep.json",
        show_default=False,
    ),
]
Board = Annotated[
    Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write event files there, too")
]


def report(
    folder: Folder, tensorboard: Board = None, json: o.Json = False, quiet: o.Quiet = False
) -> None:
    """Make report.html or sweep.html anew from the numbers beside it."""
    from surgeon.files.atomic import write_text
    from surgeon.report import board
    from surgeon.report.page import page
    from surgeon.report.sweep_page import sweep_page

    screen = Screen(json, quiet)
    folder = folder.parent if folder.suffix == ".json" else folder
    kinds = {"report": (page, board.of_report), "sweep": (sweep_page, board.of_sweep)}
    found = {name: folder / f"{name}.json" for name in kinds if (folder / f"{name}.json").is_file()}
    if not found:
        raise BadInput(
            f"{folder} holds no report.json and no sweep.json", "name a folder that shrink wrote"
        )
    written = []
    for name, path in found.items():
        data = _read(path)
        draw, events = kinds[name]
        try:
            drawn, told = draw(data), events(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadInput(*_not_ours(path, data, error)) from error
        write_text(path.with_suffix(".html"), drawn)
        written.append(path.with_suffix(".html"))
        if tensorboard is not None:
            place = tensorboard if len(found) == 1 else tensorboard / name
            screen.step(f"write events to {place}")
            board.write_events(place, *told)
            written.append(place)
    screen.show(*(f"written: {path}" for path in written))
    screen.data({"written": [str(path) for path in written]})


def _not_ours(path: Path, data: Mapping[str, Any], error: Exception) -> tuple[str, str]:
    """Message and hint for numbers that no page can be made of."""
    from surgeon import __version__

    written = data.get("surgeon")
    if isinstance(written, str) and written != __version__:
        hint = "use that version, or shrink again"
        return f"{path} was written by surgeon {written}, and this is {__version__}", hint
    why = f"{type(error).__name__}: {error}"
    return f"{path} is not what surgeon writes ({why})", "shrink again, or restore the file"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json_.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "is it whole?") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds no report", "shrink writes report.json")
    return data
