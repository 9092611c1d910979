"""Widths that kernels like: channel counts kept are multiples of a step."""

from __future__ import annotations

from math import gcd

from surgeon.grouping import Group


def block_of_this_cpu() -> int:
    """Channels per block of ONNX Runtime's convolutions here: 16 with AVX-512, 8 with AVX2, else 4."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        flags = ""
    if "avx512f" in flags.split():
        return 16
    return 8 if "avx2" in flags.split() else 4


def step_of(group: Group, round_to: int) -> int:
    """Channels that make `round_to` elements of the layer: a group of conv groups of 4 needs fewer."""
    makers = [m for m in group.members if m.role == "makes"] or list(group.members)
    each = max(len(makers[0].at) // max(group.size, 1), 1)
    return round_to // gcd(round_to, each)


def keep_count(size: int, ratio: float, step: int) -> int:
    """Channels kept of `size` at this ratio: at least one, nearest multiple of `step` where one fits.

    >>> keep_count(64, 0.5, 1), keep_count(12, 0.5, 8), keep_count(30, 0.5, 8), keep_count(5, 0.99, 1)
    (32, 8, 16, 1)
    """
    if ratio == 0:
        return size
    target = size * (1 - ratio)
    if step <= 1 or size < step:
        return min(max(size - int(size * ratio + 0.5), 1), size)
    steps = min(max(int(target / step + 0.5), 1), size // step)
    return steps * step
