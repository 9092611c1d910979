"""What a limit can be on: in words, by its key in report.json's `measured`, and in its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """`key`: of what `measured` holds for each network; `unit`: 's', 'B', or none where it is a count."""

    words: str
    key: str
    unit: str = ""


QUANTITIES: dict[str, Quantity] = {
    "flops": Quantity("FLOPs", "flops"),
    "params": Quantity("parameters", "params"),
    "latency": Quantity("latency", "latency", "s"),
    "memory": Quantity("peak memory", "peak_memory", "B"),
    "size": Quantity("file", "onnx_bytes", "B"),
}
