"""Resident memory of this process: now, at its peak since a mark, and what the machine has free."""

from __future__ import annotations

import sys


def start_of_peak() -> int:
    """Bytes resident now, with the kernel's high-water mark set back to them where that is allowed.

    Where it is not, the mark so far: the result is then a lower bound for very small networks.
    """
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return peak() or 0
    return _field("/proc/self/status", "VmRSS") or peak() or 0


def peak() -> int | None:
    """The most bytes that were resident at once; None where the system does not tell (Windows)."""
    return _field("/proc/self/status", "VmHWM") or _rusage_peak()


def free() -> int | None:
    """Bytes that a program may still take without others being swapped out."""
    return _field("/proc/meminfo", "MemAvailable")


def _field(path: str, name: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            found = [line.split()[1] for line in file if line.startswith(name + ":")]
    except OSError:
        return None
    return int(found[0]) * 1024 if found else None


def _rusage_peak() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
