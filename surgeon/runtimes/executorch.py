"""ExecuTorch: a .pte, what XNNPACK can run given to it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from surgeon.quiet import mute
from surgeon.runtimes.runtime import Runtime, not_made
from surgeon.runtimes.torch import exported

_TITLE = "ExecuTorch"


def _make(model: nn.Module, inputs: Any, path: Path) -> tuple[str, ...]:
    program = exported(model, inputs, _TITLE)
    try:
        with mute():
            xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
            exir = import_module("executorch.exir")
            partitioner = [xnnpack.XnnpackPartitioner()]
            lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioner)
            path.write_bytes(lowered.to_executorch().buffer)
    except Exception as error:
        raise not_made(_TITLE, error) from error
    return ()


EXECUTORCH = Runtime("executorch", "executorch", "model-surgeon[executorch]", _make, title=_TITLE)
