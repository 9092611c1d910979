"""A runtime: its file, what makes one, and what to install for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from surgeon.errors import BadInput
from surgeon.measure.readers import READERS

Make = Callable[[nn.Module, Any, Path], tuple[str, ...]]


@dataclass(frozen=True)
class Runtime:
    """`make(model, inputs, path)` writes the file and gives notes, or raises BadInput; it needs `package` (as imported).

    `name` is one of `READERS`, which says what it reads. `pip` is what pip installs for making and running on this machine.
    `precision` is what its numbers are pinned to.
    """

    name: str
    package: str
    pip: str
    make: Make
    precision: str = "float32"
    title: str = ""
    advice: str = ""  # for making files, where the pip line would not do

    @property
    def suffix(self) -> str:
        """Of its files."""
        return READERS[self.name].suffix

    @property
    def hint(self) -> str:
        """What to do where what makes its files is missing."""
        return self.advice or self.pip_line

    @property
    def pip_line(self) -> str:
        """What installs it."""
        return f"pip install '{self.pip}'"


def not_made(title: str, error: BaseException) -> BadInput:
    """For what a converter raised: its reason, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else "no reason given"
    return BadInput(
        f"{title} cannot be given this network: {type(error).__name__}: {said}",
        "another --runtime, such as ort",
    )
