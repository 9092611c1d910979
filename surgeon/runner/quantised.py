"""Whether an ONNX file holds quantised numbers, seen without a library that reads it."""

from __future__ import annotations

import mmap
from pathlib import Path

# ops by their names: QDQ files have the first, files of fused or dynamic quantisation one of the others
_MARKS = (b"DequantizeLinear", b"QLinearConv", b"QLinearMatMul", b"MatMulInteger", b"ConvInteger")


def quantised(path: Path) -> bool:
    """True for int8 files."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return any(whole.find(mark) >= 0 for mark in _MARKS)
