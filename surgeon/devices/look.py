"""What a device is and has, and what it lacks for timing: what `surgeon device` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from surgeon.devices import open_device
from surgeon.devices.adb import Adb
from surgeon.devices.guard import facts as own
from surgeon.devices.lacking import Installed, elsewhere, lacking
from surgeon.devices.ssh import Ssh
from surgeon.errors import BadInput


def look(text: str, runtimes: Sequence[str] = ("ort",)) -> dict[str, Any]:
    """The probe's facts with `device` (its name), `python_path`, `missing` ([{"what", "command"}], for these runtimes) and
    `then` (how the device is to be named afterwards, empty where as it was). BadInput where it cannot be reached."""
    _known(runtimes)
    device = open_device(text)
    if isinstance(device, Adb):
        return {
            "device": device.name,
            **device.probe(),
            "missing": device.lacks(runtimes),
            "then": "",
        }
    if isinstance(device, Ssh):
        facts, python = device.looked_at()
    else:
        told = own()
        facts = device.probe()
        python = Installed.of(told)
    lacks = lacking(facts, python, runtimes)
    return {
        "device": device.name,
        **facts,
        "python_path": python.executable,
        "missing": [asdict(lack) for lack in lacks],
        "then": elsewhere(python, device.name) if any(lack.command for lack in lacks) else "",
    }


def _known(runtimes: Sequence[str]) -> None:
    from surgeon.runner.engines import PACKAGES

    for name in runtimes:
        if name not in PACKAGES:
            raise BadInput(f"--runtime {name!r} does not exist", f"there are {', '.join(PACKAGES)}")
