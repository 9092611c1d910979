"""All numbers of a cut in one place, as report.json holds them under `metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.metrics.compression import compression, reduction
from surgeon.metrics.sparsity import sparsity
from surgeon.metrics.speed import latency_change, theoretical_speedup


def overview(measured: Mapping[str, Any], seen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of a `BeforeAfter.as_dict()`, and an `Evaluation.as_dict()` where there were examples.

    Shares and ratios have no unit; sizes are bytes. What was not measured is None.
    """
    before, after = measured["before"], measured["after"]
    timed = (measured["latency_ratio"] or {}).get("after")
    seen = seen or {}
    return {
        "sparsity": {k: sparsity(m["zeros"], m["params"]) for k, m in _both(before, after)},
        "zeros": {k: m["zeros"] for k, m in _both(before, after)},
        "compression_ratio": compression(before["params"], after["params"]),
        "parameter_reduction": reduction(before["params"], after["params"]),
        "flops_reduction": reduction(before["flops"], after["flops"]),
        "theoretical_speedup": theoretical_speedup(before["flops"], after["flops"]),
        "latency_change": latency_change(timed["value"]) if timed else None,
        "memory_bytes": {
            "weights": {k: m["bytes"] for k, m in _both(before, after)},
            "peak": {k: m["peak_memory"] for k, m in _both(before, after)},
        },
        "zipped_bytes": {k: m["zipped"] for k, m in _both(before, after)},
        "reconstruction_error": seen.get("output_error"),
        "accuracy": seen.get("accuracy"),
        "examples": {k: seen[k] for k in ("examples", "held_out", "which") if k in seen} or None,
    }


def _both(before: Any, after: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("before", before), ("after", after)
