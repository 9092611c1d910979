"""Devices: where a network is timed. One small interface, chosen by how the user names the place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Device(Protocol):
    """A machine that runs the runner. `name` is what the user called it."""

    @property
    def name(self) -> str: ...

    def run(self, job: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        """What the runner's answer holds under "ok".

        `files` are put beside job.json in a fresh folder there, by name; the folder is gone afterwards
        whatever happens. A SurgeonError says why there is no answer.
        """
        ...

    def probe(self) -> dict[str, Any]:
        """The facts of `runner/probe.py`, None where one is not told."""
        ...


def open_device(text: str) -> Device:
    """The device that `text` names: 'local', 'ssh://user@host:port' or 'adb:serial', with options as `address` reads them.

    Nothing is sent yet; BadInput, with what was probably meant, for what names no device.
    """
    from surgeon.devices.adb import Adb
    from surgeon.devices.address import address
    from surgeon.devices.local import Local
    from surgeon.devices.ssh import Ssh

    place = address(text)
    if place.kind == "ssh":
        return Ssh(place)
    return Adb(place) if place.kind == "adb" else Local()
