"""A progress bar on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from surgeon.cli.interrupt import stop_if_pressed

if TYPE_CHECKING:
    from surgeon.sensitivity.look import Seen
    from surgeon.tune.tuned import Step


class Bars:
    """One bar, shown anew with each call; where stderr is no terminal, a line whenever a part is done."""

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

    def show(self, said: str, done: int, total: int, ends: bool) -> None:
        """`ends`: a part is done. Stops here after a Ctrl-C that was swallowed."""
        stop_if_pressed()
        self._bar.update(self._task, description=said, total=total, completed=done)
        if ends and not self._quiet and not self._terminal:
            sys.stderr.write(f"  {said}\n")

    def epoch(self, at: Step) -> None:
        """Where a tuning run is."""
        said = f"epoch {at.epoch}/{at.epochs}  loss {at.loss:.4f}"
        self.show(said, at.step, at.steps, at.step == at.steps)

    def group(self, at: Seen) -> None:
        """Where a sensitivity run is."""
        self.show(at.group, at.done, at.total, at.ends)
