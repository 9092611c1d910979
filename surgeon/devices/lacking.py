"""What a device lacks for timing, and the line to run there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# the newest onnxruntime with a wheel for a Python, None: whatever pip finds
_WHEELS = (((3, 11), None), ((3, 10), "1.23.2"), ((3, 8), "1.19.2"))
_MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
_VENV = "~/surgeon-env"


@dataclass(frozen=True)
class Lack:
    """One sentence, and the command that mends it there; empty where none does."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Installed:
    """The Python there: its path as a shell there takes it, whether it is 64-bit, and whether its system manages its
    packages (PEP 668)."""

    executable: str = "python3"
    bits: int = 64
    managed: bool = False


def lacking(
    facts: Mapping[str, Any], python: Installed, runtimes: Sequence[str] = ("ort",)
) -> list[Lack]:
    """Of a probe's facts: numpy and the runtimes that are not there, with the pip line for this machine and Python."""
    absent = [name for name in runtimes if not facts["runtimes"].get(name)]
    missing = [] if facts.get("numpy") else ["numpy"]
    found = [
        Lack(f"{name} has no wheel for {why}")
        for name in absent
        if (why := _none(facts, python, name))
    ]
    packages = [_package(facts, name) for name in absent if not _none(facts, python, name)]
    wanted = packages + ([] if packages else missing)  # a runtime brings numpy
    if wanted:
        names = " and ".join([*(p.partition("=")[0] for p in packages), *missing])
        found.append(
            Lack(
                f"{names} {'is' if len(packages + missing) == 1 else 'are'} not installed",
                _pip(wanted, python),
            )
        )
    return found


def _none(facts: Mapping[str, Any], python: Installed, runtime: str) -> str:
    """Why pip would find no wheel of a runtime, or nothing."""
    if runtime != "ort":
        return ""
    if facts["machine"] not in _MACHINES:
        return f"{facts['machine']}: a 64-bit system is needed there"
    if python.bits == 32:
        return "a 32-bit Python: a 64-bit system is needed there"
    return ""


def _package(facts: Mapping[str, Any], runtime: str) -> str:
    from surgeon.runner.engines import PACKAGES

    name = PACKAGES[runtime][1][0]
    if runtime != "ort":
        return name
    version = tuple(int(part) for part in facts["python"].split(".")[:2])
    pinned = next((pin for least, pin in _WHEELS if version >= least), None)
    return f"{name}=={pinned}" if pinned else name


def _pip(packages: Sequence[str], python: Installed) -> str:
    """In a virtual environment where the system's own Python takes no packages."""
    names = " ".join(packages)
    executable = shlex.quote(python.executable)
    if not python.managed:
        return f"{executable} -m pip install {names}"
    return f"{executable} -m venv {_VENV} && {_VENV}/bin/pip install {names}"


def renewing(python: Installed) -> str:
    """The line that brings the newest ONNX Runtime there is for that Python."""
    return _pip(["-U", "onnxruntime"], python)


def elsewhere(python: Installed, name: str) -> str:
    """How the device is named once the environment is there; empty where its Python itself took the packages."""
    return f"{name}?python={_VENV}/bin/python" if python.managed else ""
