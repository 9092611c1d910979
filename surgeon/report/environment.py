"""Versions and hardware: what a bug report and a benchmark must say."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from surgeon.runner.probe import cpuinfo, processor

_PACKAGES = (
    "model-surgeon", "torch", "torchvision", "timm", "transformers", "numpy", "scipy", "onnx",
    "onnxscript", "onnxruntime", "safetensors", "fvcore", "torch-pruning", "typer", "rich",
)  # fmt: skip
_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")


def environment() -> dict[str, Any]:
    """Plain data: Python, packages, system, processor, accelerators."""
    flags = set(cpuinfo("flags", "Features").split())
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_usable": _usable(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cuda": _cuda(),
    }


def _usable() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cuda() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
