"""A command in a process of its own, ended where it takes too much time or memory.

Time is the process's own CPU time, so that a busy machine changes nothing; the work is on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What a process may take: CPU seconds for each stage that it reports, resident bytes in all."""

    seconds: float = 120.0
    bytes: float = 12 * 2**30


@dataclass
class Outcome:
    """The facts that a process printed (one JSON object a line), and why it ended early."""

    facts: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None


def watched(command: list[str], limits: Limits) -> Outcome:
    """Run `command` on one thread. Every line that it prints ends a stage."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        with out.open("w") as o, err.open("w") as e:
            process = subprocess.Popen(command, stdout=o, stderr=e, env=environment)
            why = _wait(process, out, limits)
        outcome = Outcome(_facts(out), why)
        if why is None and process.returncode:
            outcome.failed = _last(err) or f"exit code {process.returncode}"
    return outcome


def _wait(process: subprocess.Popen[bytes], out: Path, limits: Limits) -> str | None:
    """Wait for the end, or end it; then why."""
    stage, begun, why = 0, 0.0, None
    while why is None:
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            used, resident = _used(process.pid)
            done = out.read_text().count("\n")
            if done > stage:
                stage, begun = done, used
            if used - begun > limits.seconds:
                why = f"more than {limits.seconds:.0f} s"
            elif resident > limits.bytes:
                why = f"more than {limits.bytes / 2**30:.0f} GiB"
            continue
        return None
    process.kill()
    process.wait()
    return why


def _used(pid: int) -> tuple[float, float]:
    """CPU seconds and resident bytes of a process; wall time and nothing where /proc is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return time.monotonic(), 0.0
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def _facts(out: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for line in out.read_text().splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    return facts


def _last(err: Path) -> str:
    lines = [x.strip() for x in err.read_text().splitlines() if x.strip()]
    return lines[-1][:300] if lines else ""
