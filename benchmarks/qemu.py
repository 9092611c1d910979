"""An ONNX file on an aarch64 Python with onnxruntime's aarch64 wheel, under qemu-user: are the outputs those of this machine?

    python benchmarks/qemu.py FOLDER slim.onnx --input 1,3,224,224

FOLDER holds what it needs afterwards (about 350 MB): Debian's arm64 Python and qemu-user-static by apt-get, wheels by pip.
It says nothing about latency: an emulator is hundreds of times slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from surgeon.devices.answer import read_answer
from surgeon.devices.local import Local
from surgeon.export import relative_error
from surgeon.runner import packed
from surgeon.runner.arrays import unpacked

_APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
Dir::State "{0}/apt";
Dir::State::status "{0}/apt/status";
Dir::Cache "{0}/apt/cache";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "root";
"""
_SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n"
_DEBS = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# onnxruntime asks what core it runs on, and qemu-user shows the host's file where the root has none
_CPU = "processor\t: 0\nFeatures\t: fp asimd aes crc32\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd08\n"
_BUDGET = {"warmup_runs": 0, "warmup_s": 0.0, "min_runs": 2, "min_s": 0.0, "max_s": 1.0}


def python(folder: Path) -> list[str]:
    """The command that is an aarch64 Python; what it needs is fetched on the first call."""
    root = folder / "root"
    if not (root / "proc/cpuinfo").exists():
        _fetch(folder, root)
    qemu = folder / "qemu/usr/bin/qemu-aarch64-static"
    return [str(qemu), "-L", str(root), "-cpu", "max", str(root / "usr/bin/python3.11")]


def there(command: list[str], site: Path, job: dict, files: dict[str, Path]) -> dict:
    """The runner's answer, from the Python that `command` starts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, path in files.items():
            (folder / file).write_bytes(path.read_bytes())
        (folder / "job.json").write_text(json.dumps(job))
        (folder / "runner.pyz").write_bytes(packed())
        whole = [*command, str(folder / "runner.pyz"), str(folder)]
        env = {**os.environ, "PYTHONPATH": str(site)}
        done = subprocess.run(whole, env=env, capture_output=True, text=True, check=False)
    return read_answer(done.stdout, done.stderr, "under qemu")


def main() -> None:
    """Print how far the outputs are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--input", default="1,3,224,224")
    asked = parser.parse_args()
    sizes = [int(size) for size in asked.input.split(",")]
    command = python(asked.folder.resolve())
    model = {"name": "net", "runtime": "ort", "file": "0.onnx", "inputs": "0.npz", "threads": 1}
    job = {"do": "time", "seed": 0, "models": [model], "budget": {**_BUDGET, "precision": 1.0}, "want": ["outputs"]}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name) / "0.npz"
        np.savez(inputs, **{"0": np.random.default_rng(0).normal(size=sizes).astype(np.float32)})
        files = {"0.onnx": asked.onnx, "0.npz": inputs}
        answers = (
            Local().run(job, files),
            there(command, asked.folder.resolve() / "site", job, files),
        )
    here, emulated = (unpacked(a["models"]["net"]["outputs"]) for a in answers)
    place = answers[1]["place"]
    worst = max(relative_error(got, want) for got, want in zip(emulated, here, strict=True))
    print(f"{place['machine']}, Python {place['python']}, onnxruntime {place['runtimes']['ort']}: outputs within {worst:.1e} of their range")  # fmt: skip


def _fetch(folder: Path, root: Path) -> None:
    for part in ("apt/lists/partial", "apt/cache/archives/partial", "root/proc", "wheels", "site"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "apt/status").touch()
    (folder / "apt.conf").write_text(_APT.format(folder))
    (folder / "sources.list").write_text(_SOURCE)
    apt = ["apt-get", "-q", "-c", str(folder / "apt.conf")]
    _run([*apt, "update"], folder)
    _run([*apt, "install", "-y", "--no-install-recommends", "--download-only", *_DEBS], folder)
    _run(["apt-get", "-q", "download", "qemu-user-static"], folder)
    for deb in (folder / "apt/cache/archives").glob("*.deb"):
        _run(["dpkg", "-x", str(deb), str(root)], folder)
    _run(["dpkg", "-x", str(next(folder.glob("qemu-user-static*.deb"))), "qemu"], folder)
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "-d", "wheels"]
    _run([*pip, *platforms, "--python-version", "3.11", "numpy", "onnxruntime"], folder)
    for wheel in (folder / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    (root / "proc/cpuinfo").write_text(_CPU)  # last: it says that all is there


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
