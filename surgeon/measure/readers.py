"""What each runtime calls itself and which files it reads, one line a runtime; known without importing any of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reader:
    """`own`: its name for itself, which reports give with its version; `suffix`: of the files that it reads; `talks`: whether
    its official builds send telemetry, which the engines switch off."""

    own: str
    suffix: str
    talks: bool = False


READERS: dict[str, Reader] = {
    "ort": Reader("onnxruntime", ".onnx", talks=True),
    "openvino": Reader("openvino", ".onnx", talks=True),
    "torch": Reader("torch", ".pt2"),
    "torch-compile": Reader("torch.compile", ".pt2"),
    "ncnn": Reader("ncnn", ".ncnn"),
    "executorch": Reader("executorch", ".pte"),
    "litert": Reader("litert", ".tflite"),
}
READ_ONNX = tuple(name for name, reader in READERS.items() if reader.suffix == ".onnx")


def own_name(runtime: str) -> str:
    """'ort' -> 'onnxruntime'; a name that is not in the table stands for itself."""
    return READERS[runtime].own if runtime in READERS else runtime
