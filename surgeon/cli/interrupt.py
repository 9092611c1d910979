"""Ctrl-C is remembered: libraries swallow KeyboardInterrupt, or turn it into errors of their own."""

from __future__ import annotations

import signal
from types import FrameType

_times: list[int] = []


def listen() -> None:
    """From here on a Ctrl-C is noted, and raises KeyboardInterrupt as before."""
    signal.signal(signal.SIGINT, _note)


def pressed() -> bool:
    """Whether there was a Ctrl-C."""
    return bool(_times)


def stop_if_pressed() -> None:
    """Raise KeyboardInterrupt where an earlier one was swallowed."""
    if _times:
        raise KeyboardInterrupt


def _note(number: int, _frame: FrameType | None) -> None:
    _times.append(number)
    raise KeyboardInterrupt
