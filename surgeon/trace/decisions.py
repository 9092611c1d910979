"""Numbers that a forward reads into Python (`if x.sum() > 0`, `.item()`), and what else they might have been.

One run takes one side of every `if`. The other side is taken too, by giving a line another number than the
one that it reads.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import takewhile
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.graph import Forced, Path, Reading
from surgeon.trace.expensive import made_of_little
from surgeon.trace.place import is_ours, own_frame, spot_of

Number = bool | int | float
Read = dict[Reading, Number]
_FAR = 1e7  # beyond any threshold that a network compares with
_MOST_NUMBERS = 1 << 27  # that an op may make of far fewer, where one that was read is another
_MANY = 1000  # of something that is counted
_EACH = 8  # readings at one spot that are told apart: in a loop, or in several modules of one class
_PATHS, _SHORT = 48, 400  # other paths of a forward of few ops
_ATEN = torch.ops.aten
READS = frozenset((_ATEN._local_scalar_dense.default, _ATEN.equal.default, _ATEN.allclose.default))


def most_ops(first: int) -> int:
    """How many ops a run with other numbers may have, by those of the first: a loop over a forced one may have no end."""
    return 10 * first + 2000


def most_paths(ops: int, few: int) -> int:
    """How many other paths are gone, by the ops of one: enough for a few decisions, each of which is a line of code; more
    where a run is short."""
    return _PATHS if ops < _SHORT else few


def hopeless(path: Path, dead_ends: Collection[Path]) -> bool:
    """Whether the forward fails along it, or with this number at this spot another time (in a loop)."""
    told = {(dead[0].at.spot, dead[0].number) for dead in dead_ends if len(dead) == 1}
    return path in dead_ends or (len(path) == 1 and (path[0].at.spot, path[0].number) in told)


class Endless(RuntimeError):
    """A run with another number goes on and on."""


class Decisions(TorchDispatchMode):
    """Keeps the numbers read into Python, the first few at each spot, and forces those of a path. Entered before a mode
    that writes ops down, so that this one sees the forced number. Raises Endless beyond `most` ops, and where a forced number
    became the size of something that would fill the memory."""

    def __init__(
        self,
        path: Path = (),
        on_new: Callable[[Reading], None] | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__()
        self._forced = {forced.at: forced.number for forced in path}
        self._on_new = on_new  # told each reading before it is made
        self._left = most
        self._counts = Counter[str]()
        self.read: Read = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Endless("more ops than any other path has")
        if self._forced and made_of_little(func, args, kwargs or {}) > _MOST_NUMBERS:
            raise Endless("a number that was given became a size")
        if func not in READS or not _asked_by_code(sys._getframe(1)):
            return func(*args, **(kwargs or {}))
        spot = spot_of(sys._getframe(1))
        at = Reading(spot, self._counts[spot])
        self._counts[spot] += 1
        if self._on_new and at.nth < _EACH:
            self._on_new(at)
        out = func(*args, **(kwargs or {}))
        if isinstance(out, (complex, Tensor)) or at.nth >= _EACH:
            return out
        number: Number = self._forced.get(at, out)  # type: ignore[arg-type]
        self.read[at] = number
        return number


def _asked_by_code(frame: FrameType) -> bool:
    """Whether the network's code reads this, and not what watches it: that looks at numbers of its own while it handles
    another op."""
    own = own_frame(frame)
    if own is None:
        return True
    between = takewhile(lambda f: f is not own, _outwards(frame))
    ours = [f for f in between if is_ours(f) and f.f_code.co_name != "__torch_function__"]
    return not ours or ours[-1].f_locals.get("func") in READS


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def others(read: Mapping[Reading, Number]) -> Iterator[Forced]:
    """Numbers of the same kind in the place of each that was read, the most telling first: the other truth, far on both
    sides, none and some; then of further readings at one spot; then what an equality may ask for."""
    first = {at: number for at, number in read.items() if not at.nth}
    later = {at: number for at, number in read.items() if at.nth and type(number) is not int}
    for at, number in (*first.items(), *later.items()):
        yield from (Forced(at, other) for other in _far(number))
    for at, number in first.items():
        yield from (Forced(at, other) for other in _near(number))


def all_others(read: Mapping[Reading, Number]) -> Iterator[Path]:
    """All of them at once, for what several decide together: all on one side, all on the other."""
    for side in (0, -1) if len(read) > 1 else ():
        yield tuple(Forced(at, _far(number)[side]) for at, number in read.items())


def _far(number: Number) -> tuple[Number, ...]:
    if isinstance(number, bool):
        return (not number,)
    if isinstance(number, int):
        return (0,) if number else (2,)
    return (-_FAR, _FAR)


def _near(number: Number) -> tuple[Number, ...]:
    if isinstance(number, bool):
        return ()
    if isinstance(number, int):
        near = (_MANY, 1, 2, 3, number + 1, number - 1, -1)
        return tuple(n for n in dict.fromkeys(near) if n not in (number, *_far(number)))
    return (0.0,)
