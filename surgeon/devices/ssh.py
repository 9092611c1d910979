"""A machine over the user's own OpenSSH: its configuration, agent and jump hosts are all in use, and it never asks."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from surgeon.devices.address import Address
from surgeon.devices.lacking import Installed, elsewhere, lacking, renewing
from surgeon.devices.link import Heard, Link, start_command
from surgeon.devices.refused import login, refused
from surgeon.errors import BadInput
from surgeon.runner import packed

_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
    # of the user's own configuration, what is for sessions at a terminal
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
}
_UNREACHED = 255  # ssh's own exit code; any other is the device's
_MENDED = ("no runtime", "old runtime")
_KILLED = -int(signal.SIGKILL)


@dataclass(frozen=True)
class Ssh:
    """The device that an address names; `python` is the one there that has numpy and the runtime."""

    address: Address

    @property
    def name(self) -> str:
        return self.address.text

    @property
    def python(self) -> str:
        """As the user named it."""
        return self.address.options.get("python", "python3")

    def run(self, job: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        """As `Device.run`; every file is sent once."""
        heard = self._heard(job, files)
        try:
            return self._answer(heard)
        except _Wanting as error:
            mended = self._mend(error, (job, files), _installed(heard))
            raise BadInput(error.message, mended) from error

    def probe(self) -> dict[str, Any]:
        """As `Device.probe`."""
        return self.run({"do": "probe"}, {})

    def looked_at(self) -> tuple[dict[str, Any], Installed]:
        """The probe's facts, and the Python there."""
        heard = self._heard({"do": "probe"}, {})
        return self._answer(heard), _installed(heard)

    def _heard(self, job: Mapping[str, Any], files: Mapping[str, Path]) -> Heard:
        with Link(self._argv(), self.address.options.get("folder")) as link:
            heard = link.run(packed(), dict(job), files)
            if heard.error is None and heard.code is None:
                raise self._cut_off(heard, link.code)
        if heard.error is not None:
            raise self._guarded(heard.error)
        return heard

    def _argv(self) -> list[str]:
        client = which("ssh")
        if client is None:
            raise BadInput(
                "there is no ssh on this machine", "install OpenSSH: apt-get install openssh-client"
            )
        options = [word for key, value in _OPTIONS.items() for word in ("-o", f"{key}={value}")]
        place = self.address
        user = ["-l", place.user] if place.user else []
        port = ["-p", str(place.port)] if place.port else []
        return [client, "-T", "-x", "-a", *options, *user, *port, "--", place.host, start_command(self.python)]  # fmt: skip

    def _cut_off(self, heard: Heard, code: int | None) -> BadInput:
        """Why nothing more was heard."""
        if heard.started is not None:
            return BadInput(
                f"the connection to {self.name} broke midway",
                "run it again; the device stops by itself and removes what was sent",
            )
        if code == _UNREACHED:
            return refused(list(heard.said), self.address)
        said = heard.last or "it says nothing"
        return BadInput(
            f"{self.name} does not start {self.python}: {said}",
            f"try {login(self.address)} {self.python}",
        )

    def _guarded(self, error: Mapping[str, Any]) -> BadInput:
        """An error that the guard, or the shell before it, told of."""
        kind, where = error["error"], f"{self.name}?python=/path/to/python"
        if kind == "no python":
            return BadInput(
                f"{self.name} has no {self.python}",
                f"install Python 3.8 or later there, or say where it is: {where}",
            )
        if kind == "old python":
            return BadInput(
                f"{self.python} on {self.name} is Python {error['version']}, too old: 3.8 is needed",
                f"name another one: {where}",
            )
        folder = self.address.options.get("folder") or "its folder for temporary files"
        if kind == "disk full":
            return BadInput(
                f"{self.name} has no room in {folder} for what is to be sent ({error['message']})",
                f"free some, or name another folder: {self.name}?folder=/a/path",
            )
        return BadInput(
            f"{self.name} cannot write into {folder}: {error['message']}",
            f"name another folder: {self.name}?folder=/a/path",
        )

    def _answer(self, heard: Heard) -> dict[str, Any]:
        """What the runner's answer holds under "ok"."""
        answer = heard.answer
        if answer is None and heard.code == _KILLED:
            raise BadInput(f"the runner was killed on {self.name}", "has it enough memory?")
        if answer is None:
            said = heard.last or "it says nothing"
            raise BadInput(
                f"the runner ended without an answer on {self.name}: {said}", "run it again"
            )
        if "error" not in answer:
            return answer["ok"]
        error = answer["error"]
        message = f"{self.name}: {error['message']}"
        if error["kind"] in _MENDED:
            raise _Wanting(message, error["kind"], error.get("runtime"))
        raise BadInput(message, error["hint"] or None)

    def _mend(
        self,
        wanting: _Wanting,
        asked: tuple[Mapping[str, Any], Mapping[str, Path]],
        python: Installed,
    ) -> str:
        """The pip line to run there: of what is absent, or else of the runtime that is too old or cannot be imported."""
        job, files = asked
        wanted = [model["runtime"] for model in job.get("models", ())]
        lacks = lacking(self.probe(), python, wanted)
        lines = [lack.command or lack.what for lack in lacks]
        made = any(lack.command for lack in lacks)
        if not lacks:
            broken = wanting.kind == "no runtime"
            lack = renewing(python, wanting.runtime or wanted[0], broken=broken)
            line, made = lack.command or lack.what, bool(lack.command)
            lines = [
                f"on the device: {line}" if broken else f"{needs(files)}; on the device: {line}"
            ]
        place = elsewhere(python, self.name) if made else ""
        return "; ".join([*lines, *([f"then --device '{place}'"] if place else [])])


class _Wanting(BadInput):
    """The device lacks `runtime`, or has one that is too old; `kind` is the runner's."""

    def __init__(self, message: str, kind: str, runtime: str | None) -> None:
        super().__init__(message)
        self.kind, self.runtime = kind, runtime


def _installed(heard: Heard) -> Installed:
    return Installed.of(heard.started or {})


def needs(files: Mapping[str, Path]) -> str:
    """The newest opset and IR version among ONNX files, in words."""
    import onnx

    found = [onnx.load(f, load_external_data=False) for f in files.values() if f.suffix == ".onnx"]
    opset = max((o.version for m in found for o in m.opset_import if not o.domain), default=0)
    version = max((model.ir_version for model in found), default=0)
    return f"the file needs opset {opset} and IR version {version}" if found else "it is too old"
