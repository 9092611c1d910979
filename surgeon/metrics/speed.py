"""Speed: what the FLOPs promise, and what a clock says."""

from __future__ import annotations

from surgeon.metrics.compression import compression


def theoretical_speedup(flops_before: float, flops_after: float) -> float:
    """FLOPs before / after (a multiply-add is one): what a machine would gain whose time is its FLOPs. No unit."""
    return compression(flops_before, flops_after)


def latency_change(ratio: float) -> float:
    """after / before - 1, of a measured ratio of latencies: -0.2 is a fifth less time."""
    return ratio - 1
