"""What this machine is and has: the facts that stand beside every timing, and that say what is missing."""

from __future__ import annotations

import os
import platform
from typing import Any

from surgeon.runner import engines, memory, noise


def probe() -> dict[str, Any]:
    """The facts by name, None where they are not told; no runtime is imported for it."""
    facts = {
        "machine": platform.machine(),
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "cpu": processor(),
        "cores": _usable(),
        "runtimes": engines.versions(),
        "numpy": engines.version("numpy"),
        "memory_free": memory.free(),
    }
    facts.update(noise.signs())
    return facts


def processor() -> str:
    """'AMD EPYC 9R14', 'Cortex-A72', 'Raspberry Pi 4 Model B Rev 1.4'."""
    named = cpuinfo("model name", "Model", "Hardware") or _board()
    return named or platform.processor() or platform.machine()


def cpuinfo(*keys: str) -> str:
    """What /proc/cpuinfo says under the first of `keys` that it has; empty where it says nothing."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() in keys), "")


def _board() -> str:
    try:
        with open("/sys/firmware/devicetree/base/model", encoding="utf-8") as file:
            return file.read().strip("\0\n ")
    except OSError:
        return ""


def _usable() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count()
