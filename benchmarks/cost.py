"""What a call costs in this process: CPU seconds, wall seconds, and peak memory above what it held before.

The peak is of resident memory (VmHWM), forgotten before the call where the kernel allows it.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `run` gives, and its cost: seconds of CPU, wall seconds, MB (1e6 bytes) at the peak."""
    gc.collect()  # what was left before is not what is timed
    base = reset_peak()
    wall, start = time.perf_counter(), time.process_time()
    result = run()
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    return result, {"seconds": seconds, "wall": wall, "mb": (peak() - base) / 1e6}


def reset_peak() -> float:
    """Forget the peak so far, where the kernel allows it; the peak from now on starts here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Peak resident bytes of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return float(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
