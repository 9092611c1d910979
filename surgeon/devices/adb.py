"""An Android device through the user's own `adb`: a native binary that lies there is run, and what it prints is read.

Tried with a stand-in for adb only, never on hardware; every answer says so in its notes.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from surgeon.devices.address import Address
from surgeon.devices.native import TOOLS, Tool
from surgeon.errors import BadInput

_FOLDER = "/data/local/tmp"
_RUNS = 10  # in one call of the binary
_ROUNDS = 30
_WAIT = 600.0
NOTE = (
    "adb is untested on hardware; a lap is the mean of 10 runs of the binary on numbers of its own"
)


@dataclass(frozen=True)
class Adb:
    """The device with a serial number, or the only one there is."""

    address: Address

    @property
    def name(self) -> str:
        return self.address.text

    def run(self, job: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        """As `Device.run`, for networks of runtimes in `native.TOOLS`; outputs and profiles are not to be had."""
        if job["do"] == "probe":
            return self.probe()
        tools = {model["name"]: self._tool(model) for model in job["models"]}
        place = self.probe()
        with self._folder() as folder:
            for name in _sent(job, files):
                self._adb("push", str(files[name]), f"{folder}/{name}")
            answers = {m["name"]: _empty(m, files) for m in job["models"]}
            self._laps(job, tools, folder, answers)
        return {"models": answers, "place": place}

    def probe(self) -> dict[str, Any]:
        """As `Device.probe`; `runtimes` are the binaries that lie where surgeon looks for them."""
        said = self._shell("uname -m; getprop ro.product.model; getprop ro.build.version.release; nproc; cat /proc/meminfo")  # fmt: skip
        lines = [*said.splitlines(), "", "", "", ""]
        free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
        unknown = dict.fromkeys(("python", "numpy", "temperature", "throttled", "pressure"))
        governor = self._shell("cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor || true")
        return {
            "machine": lines[0].strip(),
            "system": f"Android {lines[2].strip()}",
            "cpu": lines[1].strip(),
            "cores": int(lines[3]) if lines[3].strip().isdecimal() else None,
            "runtimes": {name: self._there(tool) for name, tool in TOOLS.items()},
            "governor": governor.strip() or None,
            "memory_free": int(free) * 1024 if free else None,
            "note": NOTE,
            **unknown,
        }

    def lacks(self, runtimes: Sequence[str]) -> list[dict[str, str]]:
        """What is missing, and how it comes there."""
        return [
            {
                "what": f"{self._binary(TOOLS[name])} is not there",
                "command": f"{self._said()} push {TOOLS[name].binary} {_FOLDER}/",
            }
            for name in runtimes
            if name in TOOLS and not self._there(TOOLS[name])
        ]

    def _laps(
        self,
        job: Mapping[str, Any],
        tools: Mapping[str, Tool],
        folder: str,
        answers: dict[str, dict[str, Any]],
    ) -> None:
        """Rounds in random order, as many as the budget has time for, at least three."""
        order = random.Random(job.get("seed", 0))
        most = float(job.get("budget", {}).get("max_s", 30.0)) * len(answers)
        start, models = time.monotonic(), list(job["models"])
        for done in range(_ROUNDS):
            if done >= 3 and time.monotonic() - start > most:
                return
            order.shuffle(models)
            for model in models:
                tool = tools[model["name"]]
                command = tool.command(
                    self._binary(tool), f"{folder}/{model['file']}", model["threads"], _RUNS
                )
                read = tool.read(self._shell(command), _RUNS)
                if read.lap is None:
                    raise BadInput(
                        f"{tool.binary} on {self.name} printed no time for {model['name']}",
                        "run it by hand: " + command,
                    )
                answer = answers[model["name"]]
                answer["laps"].append(read.lap)
                answer["load_s"] = answer["load_s"] or read.load
                answer["first_s"] = answer["first_s"] or read.first

    def _tool(self, model: Mapping[str, Any]) -> Tool:
        tool = TOOLS.get(model["runtime"])
        if tool is None:
            raise BadInput(
                f"there is no native binary for {model['runtime']} over adb",
                f"--runtime {' or '.join(TOOLS)}",
            )
        if not self._there(tool):
            raise BadInput(
                f"{self.name} has no {self._binary(tool)}",
                f"{self._said()} push {tool.binary} {_FOLDER}/, or say where it lies: {self.name}?binary=/a/path",
            )
        return tool

    def _binary(self, tool: Tool) -> str:
        return self.address.options.get("binary", f"{_FOLDER}/{tool.binary}")

    def _there(self, tool: Tool) -> str | None:
        found = self._shell(f"test -x {shlex.quote(self._binary(tool))} && echo yes || true")
        return self._binary(tool) if "yes" in found else None

    @contextlib.contextmanager
    def _folder(self) -> Iterator[str]:
        parent = self.address.options.get("folder", _FOLDER)
        folder = f"{parent}/surgeon-{secrets.token_hex(4)}"
        self._shell(f"mkdir {shlex.quote(folder)}")
        try:
            yield folder
        finally:
            with contextlib.suppress(BadInput):
                self._shell(f"rm -rf {shlex.quote(folder)}")

    def _shell(self, command: str) -> str:
        return self._adb("shell", command)

    def _adb(self, *words: str) -> str:
        client = which("adb")
        if client is None:
            raise BadInput("there is no adb on this machine", "apt-get install adb")
        serial = ["-s", self.address.host] if self.address.host else []
        try:
            done = subprocess.run(
                [client, *serial, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_WAIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BadInput(f"{self.name} does not answer: adb {words[0]}") from error
        if done.returncode:
            raise BadInput(f"{self.name}: {_why(done)}", "adb devices shows which there are")
        return done.stdout + ("\n" + done.stderr if words[0] == "shell" else "")

    def _said(self) -> str:
        return f"adb -s {self.address.host}" if self.address.host else "adb"


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = (
        done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
    ).splitlines()
    return lines[-1].removeprefix("error: ").removeprefix("adb: ")


def _sent(job: Mapping[str, Any], files: Mapping[str, Path]) -> list[str]:
    """Networks and the data that they name, each once; binaries make numbers of their own, so that inputs stay here."""
    return [name for name in files if name not in {model["inputs"] for model in job["models"]}]


def _empty(model: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
    """An answer without laps yet."""
    own = [files[name] for name in (model["file"], f"{model['file']}.data") if name in files]
    return {
        "runtime": model["runtime"],
        "version": "native",
        "precision": "as in the file",
        "threads": model["threads"],
        "load_s": None,
        "first_s": None,
        "laps": [],
        "cpu_s": None,
        "around_s": 0.0,
        "switches": None,
        "disturbed": [],
        "disturbed_s": [],
        "file_bytes": sum(file.stat().st_size for file in own),
        "peak_memory": None,
        "profile": None,
        "outputs": None,
    }
