"""Ctrl-C is remembered: libraries swallow KeyboardInterrupt, or turn it into errors of their own.

SIGTERM (`timeout`, a scheduler) ends a command in the same way, so that nothing is left behind.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

_times: list[int] = []


def listen() -> None:
    """From here on a Ctrl-C is noted, and raises KeyboardInterrupt as before; so does SIGTERM."""
    signal.signal(signal.SIGINT, _note)
    signal.signal(signal.SIGTERM, _note)
    sys.unraisablehook = _quiet


def pressed() -> bool:
    """Whether there was a Ctrl-C."""
    return bool(_times)


def exit_code() -> int:
    """128 and the signal, as shells have it."""
    return 128 + (_times[0] if _times else signal.SIGINT)


def stop_if_pressed() -> None:
    """Raise KeyboardInterrupt where an earlier one was swallowed."""
    if _times:
        raise KeyboardInterrupt


def _quiet(unraisable: sys.UnraisableHookArgs) -> None:
    """One that struck inside a destructor cannot be raised; Python would print it. It was noted."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _note(number: int, _frame: FrameType | None) -> None:
    _times.append(number)
    raise KeyboardInterrupt
