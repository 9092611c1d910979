"""ONNX Runtime and OpenVINO: both read the ONNX file that surgeon compares with PyTorch when it writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from surgeon.runtimes.runtime import Runtime


def _make(model: nn.Module, inputs: Any, path: Path) -> tuple[str, ...]:
    from surgeon.export import export_onnx

    return export_onnx(model, path, inputs, dynamic_batch=False).notes


ORT = Runtime("ort", "onnxruntime", "onnxruntime", _make, title="ONNX Runtime")
OPENVINO = Runtime("openvino", "onnxruntime", "model-surgeon[openvino]", _make, title="OpenVINO")
