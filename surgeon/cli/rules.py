"""`surgeon rules`: what every op means for channels."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen

Markdown = Annotated[bool, typer.Option("--markdown", help="The README's table")]


def rules(markdown: Markdown = False, json: o.Json = False) -> None:
    """List the ops that have a channel rule; any other op freezes the channels that reach it."""
    from surgeon.report import tables
    from surgeon.report.optable import op_markdown, op_rows

    screen = Screen(json)
    if markdown and not json:
        sys.stdout.write(op_markdown())
        return
    found = op_rows()
    screen.show(tables.ops(found), "", f"{len(found)} ops")
    screen.data(found)
