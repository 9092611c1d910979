"""Where things are said: data on stdout, progress and notes on stderr, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from surgeon.cli.interrupt import stop_if_pressed

_PIPED_WIDTH = 200  # a pipe has no width; tables cut at 80 would lose layer names


class Screen:
    """What a command prints to. With `json` tables and lines are left out, `data` is what counts."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self._said: set[str] = set()

    def step(self, what: str) -> None:
        """Progress: what is being done now. Stops here after a Ctrl-C that was swallowed."""
        stop_if_pressed()
        if not self.quiet:
            _console(sys.stderr).print(f"  {what} ...", style="dim")

    def notes(self, notes: Iterable[str]) -> None:
        """What the user should know; each is said once."""
        for note in notes:
            if note not in self._said and not self.quiet:
                _console(sys.stderr).print(f"note: {note}", style="yellow", soft_wrap=True)
            self._said.add(note)

    def show(self, *parts: Table | str) -> None:
        """Tables and lines for people, on stdout."""
        if not self.json:
            console = _console(sys.stdout)
            for part in parts:
                console.print(part, soft_wrap=isinstance(part, str))

    def data(self, document: Any) -> None:
        """The one JSON document, where it was asked for."""
        if self.json:
            from surgeon.report.document import dumps

            sys.stdout.write(dumps(document))
            sys.stdout.flush()


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
