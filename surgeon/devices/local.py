"""This machine: the runner in a process of its own, without torch and without surgeon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.devices.answer import read_answer
from surgeon.errors import BadInput
from surgeon.runner import packed


class Local:
    """This Python, the runner packed as it is for any device."""

    name = "local"

    def run(self, job: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        """As `Device.run`."""
        with tempfile.TemporaryDirectory(prefix="surgeon-") as temporary:
            folder = Path(temporary)
            for name, path in files.items():
                _put(path, folder / name)
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            program = folder / "runner.pyz"
            program.write_bytes(packed())
            lease, held = os.pipe()  # `held` closes with this process, however it ends
            try:
                done = subprocess.run(
                    [sys.executable, str(program), str(folder), "--leased"],
                    stdin=lease,
                    capture_output=True,
                    env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                    encoding="utf-8",
                    errors="replace",
                    check=False,
                )
            except OSError as error:
                raise BadInput(f"the runner cannot be started: {error.strerror}") from error
            finally:
                os.close(lease)
                os.close(held)
        return read_answer(done.stdout, done.stderr, _end(done.returncode))

    def probe(self) -> dict[str, Any]:
        """As `Device.probe`."""
        return self.run({"do": "probe"}, {})


def _put(path: Path, place: Path) -> None:
    """A link where the file system allows one: networks are large."""
    try:
        os.link(path.resolve(), place)
    except OSError:
        shutil.copyfile(path, place)


def _end(code: int) -> str:
    return f"(killed by signal {-code})" if code < 0 else f"(exit code {code})"
