"""Which line of the model's own code called an op: the innermost frame that is neither torch's nor surgeon's."""

from __future__ import annotations

import os
from functools import lru_cache
from types import FrameType

import torch

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SKIP = (torch.__path__[0] + os.sep, _HERE + os.sep)


def place_of(frame: FrameType | None) -> str:
    """'net.py:41', '?' where there is none."""
    while frame is not None:
        file = _file(frame.f_code.co_filename)
        if file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@lru_cache(maxsize=4096)
def _file(name: str) -> str:
    """The last part of a path; nothing for files that are skipped and for code that is in none."""
    return "" if name.startswith(_SKIP) or name.startswith("<") else name.rsplit("/", 1)[-1]
