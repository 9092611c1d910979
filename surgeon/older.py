"""torch's older exporter to ONNX, which writes down one run; refused where that run is not the whole forward."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from surgeon.quiet import silent
from surgeon.trace.decisions import Decisions
from surgeon.trace.place import place_of

OPSET = 18  # the newer exporter writes the same by default
_NUMBERS = ("__bool__", "__int__", "__float__", "__complex__", "__index__", "item")
_FUNCTIONS = ("equal", "allclose", "is_nonzero")
_ARRAYS = ("tolist", "numpy", "__array__", *_FUNCTIONS)
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH = torch.__path__[0] + os.sep
_EXPORTER = _TORCH + "onnx" + os.sep
# torch's own recurrent layers read how many examples a packed sequence has, which no lengths change
_PACKED = (os.path.join("nn", "modules", "rnn.py"), os.path.join("nn", "utils", "rnn.py"))


class OneSide(Exception):
    """The file would hold one side of an `if`, or one length of a loop, whatever its inputs are; the line of code."""


def export_run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write what one run of `model`, which gives a tuple of tensors, does. Sizes are fixed.

    A forward that reads numbers of its data into Python is refused, but for torchvision's detectors and packed
    sequences: the code that the former run in an export reads none, and what the latter read follows from sizes.
    Raises OneSide, and whatever torch raises.
    """
    with Decisions() as decisions:
        model(*args, **kwargs)
    known = frozenset(at.line for at in decisions.read)
    with silent(), _reading(known):
        torch.onnx.export(model, args, str(path), kwargs=kwargs, dynamo=False, opset_version=OPSET)


@contextmanager
def _reading(known: frozenset[str]) -> Iterator[None]:
    """Raises OneSide where a tensor is read into Python inside, unless it tells a size. `known`: the lines that read
    data in a run by itself. Where there is none, what is read in the trace is a size: these are tensors there."""

    def watched(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            array = name in _ARRAYS
            if not (_inside(frame, _TORCH) if array else _tells_a_size(frame, known)):
                raise OneSide(place_of(frame))
            return own(self, *args, **kwargs)

        return read

    with ExitStack() as stack:
        stack.enter_context(_replaced(torch.Tensor, "__len__", _length))
        for owner, names in ((torch.Tensor, (*_NUMBERS, *_ARRAYS)), (torch, _FUNCTIONS)):
            for name in names:
                stack.enter_context(_replaced(owner, name, watched(name, getattr(owner, name))))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:  # it is a class's before this one
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _length(tensor: torch.Tensor) -> int:
    """A number at once: in a trace a size is a tensor, which Python would read at the line that asks."""
    return int(tensor.shape[0])


def _tells_a_size(frame: FrameType, known: frozenset[str]) -> bool:
    if not known or _inside(frame, _HERE):
        return True
    while _inside(frame, _TORCH) and frame.f_back is not None:
        file = frame.f_code.co_filename
        if file.endswith(_PACKED) or file.startswith(_EXPORTER):
            return True
        frame = frame.f_back
    # torchvision has code for an export, which knows sizes alone; of other code that is not certain
    return _inside(frame, _torchvision()) and place_of(frame) not in known


def _inside(frame: FrameType, folder: str) -> bool:
    return bool(folder) and frame.f_code.co_filename.startswith(folder)


def _torchvision() -> str:
    found = getattr(sys.modules.get("torchvision"), "__path__", None)
    return found[0] + os.sep if found else ""
