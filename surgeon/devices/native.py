"""The native benchmark binaries of runtimes: how each is called, and how its lines are read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Read:
    """Seconds: one run (the mean of a call's runs), loading, the first run. None where it was not printed."""

    lap: float | None
    load: float | None = None
    first: float | None = None


@dataclass(frozen=True)
class Tool:
    """`command(binary, file, threads, runs)` is for a shell; `read(printed, runs)` reads what it printed."""

    binary: str
    command: Callable[[str, str, int, int], str]
    read: Callable[[str, int], Read]


def _litert(binary: str, file: str, threads: int, runs: int) -> str:
    return (
        f"{shlex.quote(binary)} --graph={shlex.quote(file)} --num_threads={threads} --warmup_runs=3 "
        f"--warmup_min_secs=0 --num_runs={runs} --min_secs=0"
    )


def _read_litert(printed: str, _runs: int) -> Read:
    """`Inference timings in us: Init: 1523, First inference: 15234, Warmup (avg): 12890, Inference (avg): 12340`."""
    found = [
        _number(rf"{name}:\s*{_NUMBER}", printed, 1e-6)
        for name in (r"Inference \(avg\)", "Init", "First inference")
    ]
    return Read(*found)


def _executorch(binary: str, file: str, threads: int, runs: int) -> str:
    return (
        f"{shlex.quote(binary)} --model_path={shlex.quote(file)} --cpu_threads={threads} "
        f"--num_executions={runs}"
    )


def _read_executorch(printed: str, runs: int) -> Read:
    """`Model executed successfully 10 time(s) in 140.123000 ms.`"""
    found = re.search(rf"executed successfully (\d+) time\(s\) in {_NUMBER} ms", printed)
    return Read(float(found.group(2)) / 1e3 / int(found.group(1) or runs) if found else None)


def _ort(binary: str, file: str, threads: int, runs: int) -> str:
    return f"{shlex.quote(binary)} -I -m times -r {runs} -x {threads} -y 1 {shlex.quote(file)}"


def _read_ort(printed: str, _runs: int) -> Read:
    """`Session creation time cost: 0.22 s`, `First inference time cost: 196 ms`, `Average inference time cost total: 99 ms`."""
    return Read(
        _number(rf"Average inference time cost(?: total)?:\s*{_NUMBER} ms", printed, 1e-3),
        _number(rf"Session creation time cost:\s*{_NUMBER} s", printed, 1.0),
        _number(rf"First inference time cost:\s*{_NUMBER} ms", printed, 1e-3),
    )


def _number(pattern: str, printed: str, unit: float) -> float | None:
    found = re.search(pattern, printed)
    return float(found.group(1)) * unit if found else None


_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"

TOOLS: dict[str, Tool] = {
    "litert": Tool("benchmark_model", _litert, _read_litert),
    "executorch": Tool("executor_runner", _executorch, _read_executorch),
    "ort": Tool("onnxruntime_perf_test", _ort, _read_ort),
}
