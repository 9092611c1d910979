"""The user's own number for a model: `file.py:function`, called on the original and on the slim one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.arch import import_file
from surgeon.trace.folding import own_copy

_FORM = "write --metric path/to/file.py:function, where function(model) gives a number"


def load_metric(reference: str) -> Callable[[nn.Module], float]:
    """The function that a reference names. BadInput where there is none, or it gives no number."""
    path, _, name = reference.rpartition(":")
    if not path.endswith(".py") or not name:
        raise BadInput(f"--metric {reference!r} names no function in a file", _FORM)
    if not Path(path).is_file():
        raise BadInput(f"--metric {path}: no such file", _FORM)
    function = getattr(import_file(Path(path)), name, None)
    if not callable(function):
        raise BadInput(f"--metric {path} has no function {name!r}", _FORM)

    def metric(model: nn.Module) -> float:
        # on a copy: it may train the model, or move it to another device
        try:
            with torch.no_grad():
                return float(function(own_copy(model, {})))  # type: ignore[arg-type]
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise BadInput(f"--metric {name} failed: {said}", "the error is its own") from error

    return metric
