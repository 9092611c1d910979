"""A progress bar on stderr for each epoch of a run."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from surgeon.cli.interrupt import stop_if_pressed

if TYPE_CHECKING:
    from surgeon.tune.tuned import Step


class Bars:
    """Called with each `Step`; where stderr is no terminal, only each epoch's last step is said."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        console = Console(file=sys.stderr)
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=quiet or not self._terminal
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Bars:
        self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, at: Step) -> None:
        """Show it; stops here after a Ctrl-C that was swallowed."""
        stop_if_pressed()
        said = f"epoch {at.epoch}/{at.epochs}  loss {at.loss:.4f}"
        self._bar.update(self._task, description=said, total=at.steps, completed=at.step)
        if at.step == at.steps and not self._quiet and not self._terminal:
            sys.stderr.write(f"  {said}\n")
