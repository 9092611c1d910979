"""Runtimes: what a network is deployed in. Here files are made for them; the runner's engines run those files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from surgeon.errors import BadInput
from surgeon.measure.target import checked_runtime
from surgeon.runner.engines import PACKAGES
from surgeon.runtimes import executorch, litert, ncnn, onnx, torch
from surgeon.runtimes.runtime import Runtime

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        onnx.ORT,
        onnx.OPENVINO,
        torch.EAGER,
        torch.COMPILED,
        ncnn.NCNN,
        executorch.EXECUTORCH,
        litert.LITERT,
    )
}


def runtime(name: str) -> Runtime:
    """The runtime of that name; BadInput with the closest one where there is none."""
    return RUNTIMES[checked_runtime(name)]


def require(wanted: Runtime, *, running: bool = False) -> None:
    """BadInput with the pip line where what makes its files is not installed, or with `running` what runs them here."""
    package = PACKAGES[wanted.name][0] if running else wanted.package
    if importlib.util.find_spec(package) is None:
        hint = wanted.pip_line if running else wanted.hint
        raise BadInput(f"{wanted.title} needs {package}, which is not installed", hint)


def make(model: nn.Module, inputs: Any, name: str, path: Path) -> tuple[Path, tuple[str, ...]]:
    """Write the file of `model` for runtime `name`, for inputs of just these sizes: (where it is, notes).

    It is at `path`, with the suffix of its kind. BadInput where what makes it is not installed, or cannot
    make it of this network.
    """
    found = runtime(name)
    require(found)
    path = path.with_suffix(found.suffix)
    return path, found.make(model, inputs, path)
