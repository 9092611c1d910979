"""Which line of the model's own code called an op: the innermost frame that is neither torch's nor surgeon's."""

from __future__ import annotations

import os
from functools import lru_cache
from types import FrameType

import torch

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SKIP = (torch.__path__[0] + os.sep, _HERE + os.sep)
_TYPED = (
    "<string>",
    "<stdin>",
    "<ipython-input",
)  # code that a person wrote, and that is in no file


def place_of(frame: FrameType | None) -> str:
    """'net.py:41', '?' where there is none."""
    own = own_frame(frame)
    return f"{_file(own.f_code.co_filename)}:{own.f_lineno}" if own else "?"


def spot_of(frame: FrameType | None) -> str:
    """'net.py:41+26': also where on its line, as the number of an instruction."""
    own = own_frame(frame)
    return f"{place_of(own)}+{own.f_lasti}" if own else "?"


def own_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame that is neither torch's nor surgeon's."""
    while frame is not None and not _file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def is_ours(frame: FrameType) -> bool:
    """Whether surgeon's code runs there."""
    return frame.f_code.co_filename.startswith(_HERE + os.sep)


@lru_cache(maxsize=4096)
def _file(name: str) -> str:
    """The last part of a path; nothing for files that are skipped and for code that was generated."""
    if name.startswith(_SKIP) or (name.startswith("<") and not name.startswith(_TYPED)):
        return ""
    return name.rsplit("/", 1)[-1]
