"""PyTorch itself, eager and torch.compile: a .pt2 of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.measure.runtime import evaluating
from surgeon.quiet import mute
from surgeon.runtimes.flat import Flat
from surgeon.runtimes.runtime import Runtime, not_made
from surgeon.trace.mode import exporting


def exported(model: nn.Module, inputs: Any, title: str) -> torch.export.ExportedProgram:
    """torch.export of `model` with flat inputs and outputs; BadInput where it refuses."""
    flat = Flat(model, inputs)
    try:
        with mute(), evaluating(model), torch.no_grad(), exporting():
            return torch.export.export(flat, flat.tensors, strict=False)
    except Exception as error:
        raise not_made(title, error) from error


def _make(model: nn.Module, inputs: Any, path: Path) -> tuple[str, ...]:
    program = exported(model, inputs, "torch.export")
    with mute():
        torch.export.save(program, path)
    return ()


EAGER = Runtime("torch", "torch", "torch", _make, title="PyTorch")
COMPILED = Runtime("torch-compile", "torch", "torch", _make, title="torch.compile")
