"""torch's older exporter to ONNX, which writes down one run; refused where that run is not the whole forward."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.quiet import silent
from surgeon.trace.decisions import Decisions, Forced, Number
from surgeon.trace.place import place_of

OPSET = 18  # the newer exporter writes the same by default
_MANY = 8  # readings at one line; of more, one will have been free to be another
_READ = re.compile(r"Converting a tensor to a (Python|NumPy) (\w+)")


class OneSide(Exception):
    """The file would hold one side of an `if`, or one length of a loop, whatever its inputs are."""


def export_run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write what one run of `model`, which gives a tuple of tensors, does. Sizes are fixed.

    A forward may read numbers into Python: torchvision's detectors have other code for an export, which does not.
    Raises OneSide where a line reads a number in the file's run too, and the forward would go on with another one;
    and whatever torch raises.
    """

    def run() -> None:
        model(*args, **kwargs)

    with Decisions() as decisions:
        run()
    with silent(), _left() as left:
        torch.onnx.export(model, args, str(path), kwargs=kwargs, dynamo=False, opset_version=OPSET)
    for place, form in left:
        # what is read in the trace alone is a size, and sizes are fixed
        if form in ("list", "array") or _free(run, place, decisions.read.get(place, [])):
            raise OneSide(place)


@contextmanager
def _left() -> Iterator[set[tuple[str, str]]]:
    """The lines of code at which numbers leave the trace, as torch itself warns, and in which form."""
    lines: set[tuple[str, str]] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == warnings.__file__:
            frame = frame.f_back
        if read := _READ.match(str(message)):
            lines.add((place_of(frame), read[2]))

    with warnings.catch_warnings():
        warnings.simplefilter("always", torch.jit.TracerWarning)
        warnings.showwarning = show
        yield lines


def _free(run: Callable[[], None], place: str, numbers: Sequence[Number]) -> bool:
    """Whether the forward runs when a reading at `place` gives something else: a packed sequence's number
    of examples, say, is read from a tensor and cannot be another."""
    if len(numbers) > _MANY:
        return True
    return any(
        _runs(run, Forced(place, other, nth))
        for nth, number in enumerate(numbers)
        for other in _others(number)
    )


def _others(number: Number) -> tuple[Number, ...]:
    if isinstance(number, bool):
        return (not number,)
    if isinstance(number, int):
        return tuple({0, 1, number - 1, number + 1} - {number})
    return (number + 1.0,)


def _runs(run: Callable[[], None], forced: Forced) -> bool:
    try:
        with Decisions(forced):
            run()
    except Exception:  # noqa: BLE001  the user's forward raises what it likes
        return False
    return True
