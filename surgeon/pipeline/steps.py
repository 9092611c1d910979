"""The steps of a run: told as they start, timed, and spared the garbage collector."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

Progress = Callable[[str], None]

# steps that make many small objects and no cycles among large ones: half their time would go to looking
_LIGHT = ("trace and couple", "score and plan", "cut")


@contextmanager
def _collecting_later() -> Iterator[None]:
    """No cyclic garbage collection inside."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Steps:
    """Tells what it does, and keeps how long each step took."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.during = ""  # which part of a run in several cuts
        self.seconds: dict[str, float] = {}

    def __call__(self, what: str, step: Callable[[], Any]) -> Any:
        if self._progress:
            self._progress(self.during + what)
        start = time.perf_counter()
        with _collecting_later() if what in _LIGHT else nullcontext():
            result = step()
        spent = time.perf_counter() - start
        self.seconds[what] = self.seconds.get(what, 0.0) + spent
        return result
