"""What speaks against a timing: what else the machine was doing, and whether it was slowed down. None where it is not told."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# vcgencmd get_throttled of a Raspberry Pi: what each bit says
_THROTTLED = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "too warm",
    16: "there was under-voltage",
    17: "the frequency was capped",
    18: "it was throttled",
    19: "it was too warm",
}
_VCGENCMD_S = 5


def involuntary_switches() -> int | None:
    """How often this process lost its core so far."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def cpu_pressure() -> float | None:
    """Linux pressure stall information, `some avg10`: percent of ten seconds in which something waited for a CPU."""
    found = re.match(r"some avg10=([\d.]+)", _text("/proc/pressure/cpu"))
    return float(found.group(1)) if found else None


def governor() -> str | None:
    """How the kernel chooses the clock of the first core: 'performance', 'powersave', ..."""
    return _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def temperature() -> float | None:
    """Degrees Celsius of the warmest sensor."""
    sensors = Path("/sys/class/thermal").glob("thermal_zone*/temp")
    told = [text for text in map(_text, sensors) if re.match(r"-?\d+$", text)]
    return max((int(text) / 1000 for text in told), default=None)


def throttled() -> str | None:
    """What slows a Raspberry Pi down, or did since it was started; empty where nothing does."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_VCGENCMD_S,
            check=True,
        )
        bits = int(done.stdout.decode().strip().partition("=")[2], 16)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return ", ".join(said for bit, said in _THROTTLED.items() if bits >> bit & 1)


def signs() -> dict[str, object]:
    """All of it, by name."""
    return {
        "governor": governor(),
        "temperature": temperature(),
        "throttled": throttled(),
        "pressure": cpu_pressure(),
    }


def _text(path: object) -> str:
    try:
        return Path(str(path)).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
