"""Numbers that a forward reads into Python (`if x.sum() > 0`, `.item()`), and what else they might have been.

One run takes one side of every `if`. The other side is taken too, by giving a line another number than the
one that it reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.graph import Forced, Path
from surgeon.trace.place import spot_of

Number = bool | int | float
_FAR = 1e9  # beyond any threshold that a network compares with


class Decisions(TorchDispatchMode):
    """Keeps the numbers read into Python by place, and forces the first reading at those of a path. Entered before a mode
    that writes ops down, so that this one sees the forced number."""

    def __init__(self, path: Path = (), on_new: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._forced = {forced.place: forced.number for forced in path}
        self.on_new = on_new  # told each line that is reached for the first time
        self.read: dict[str, list[Number]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not torch.ops.aten._local_scalar_dense.default:
            return func(*args, **(kwargs or {}))
        place = spot_of(sys._getframe(1))
        if self.on_new and place not in self.read:
            self.on_new(place)
        out = func(*args, **(kwargs or {}))
        if isinstance(out, complex):
            return out
        if place in self._forced and place not in self.read:
            out = self._forced[place]
        self.read.setdefault(place, []).append(out)
        return out


def others(read: Mapping[str, Sequence[Number]]) -> Iterator[Forced]:
    """Numbers of the same kind that no reading gave: the other truth, far on both sides, none and some."""
    for place, numbers in read.items():
        if isinstance(numbers[0], bool):
            yield from (Forced(place, x) for x in (True, False) if x not in numbers)
        elif isinstance(numbers[0], int):
            yield from (Forced(place, x) for x in ((0,) if any(numbers) else (2,)))
        else:
            yield from (Forced(place, x) for x in (-_FAR, _FAR))
