"""What a device lacks for timing, and the line to run there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    """The Python there, as `guard.facts` tells of it; `executable` is its path as a shell there takes it."""

    executable: str = "python3"
    bits: int = 64
    managed: bool = False
    virtual: bool = False
    pip: bool = True
    ensurepip: bool = True
    apt: bool = True

    @staticmethod
    def of(told: Mapping[str, Any]) -> Installed:
        """From the guard's facts."""
        names = [field.name for field in fields(Installed)]
        return Installed(**{name: told[name] for name in names if name in told})

    @property
    def apart(self) -> bool:
        """Whether packages go into an environment of their own: a system's Python that takes none, or has no pip."""
        return self.managed or not (self.pip or self.virtual)


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
        said = f"{names} {'is' if len(packages + missing) == 1 else 'are'} not installed"
        found.append(_pip(said, wanted, python))
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


def _pip(what: str, words: Sequence[str], python: Installed) -> Lack:
    """The line that installs, with what brings pip before it; a sentence instead where nothing known does."""
    install, executable = f"pip install {' '.join(words)}", shlex.quote(python.executable)
    if python.apart:
        steps = [f"{executable} -m venv {_VENV}", f"{_VENV}/bin/{install}"]
    else:
        steps = [f"{executable} -m {install}"]
        if not python.pip:
            steps.insert(0, f"{executable} -m ensurepip")
    if python.ensurepip or (python.pip and not python.apart):
        return Lack(what, " && ".join(steps))
    if not python.apt:
        return Lack(f"{what}, and {executable} lacks ensurepip, which its system's packages bring")
    # Debian and its like keep ensurepip, which venv needs as well, in a package of its own
    return Lack(what, " && ".join(["sudo apt-get install -y python3-venv", *steps]))


def renewing(python: Installed, runtime: str, *, broken: bool = False) -> Lack:
    """What brings the newest version of a runtime that there is for that Python; all of it anew where it is broken."""
    from surgeon.runner.engines import PACKAGES

    package = PACKAGES[runtime][1][0]
    words = ["-U", *(["--force-reinstall"] if broken else []), package]
    what = f"{package} must be installed anew" if broken else f"a newer {package} is needed"
    return _pip(what, words, python)


def elsewhere(python: Installed, name: str) -> str:
    """How the device is named once the environment is there; empty where its Python itself took the packages."""
    return f"{name}?python={_VENV}/bin/python" if python.apart else ""
