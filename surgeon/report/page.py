"""report.html: the tables of a shrink on one page that needs nothing else."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from surgeon.report import tables, text

_WIDTH = 160


def page(report: dict[str, Any]) -> str:
    """The page of report.json's data."""
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, markup=False, highlight=False)
    source = report["model"].get("source") or "a model"
    parts: list[Table | str] = [
        f"surgeon: {source}",
        ", ".join(f"{key} {value}" for key, value in report["request"].items()),
        tables.before_after(report),
        "\n".join(text.outcome(report)),
        tables.groups_cut(report),
        tables.groups_left(report),
        "\n".join(f"note: {note}" for note in report["notes"]),
    ]
    for part in parts:
        console.print(part)
        console.print()
    return console.export_html()
