"""Whether an ONNX file holds quantised numbers, seen without a library that reads it."""

from __future__ import annotations

import mmap
from pathlib import Path

_MARK = b"DequantizeLinear"  # the op that every QDQ file has, by its name


def quantised(path: Path) -> bool:
    """True for int8 files of the QDQ kind."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(_MARK) >= 0
