"""Ctrl-C at any moment and a full disk leave what was there, and nothing that is half written."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import pytest

import surgeon
from surgeon.cli.main import main, run
from surgeon.errors import BadInput
from surgeon.report.folder import publish, staging

NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))
"""
# processes that begin where the imports end: what the exporter takes is imported, and interrupted, in each
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "surgeon.shrink", "surgeon.cli.shrink", "surgeon.cli.tune"])
SHRINK = ["shrink", "nets.py:net", "--ratio", "0.5", "-o", "out"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    folders = {str(path): b"" for path in folder.rglob("*") if path.is_dir()}
    return {name: data for name, data in (found | folders).items() if "__pycache__" not in name}


def command(args: list[str], size: int | None = None) -> None:
    """`surgeon` with these arguments, which ends the process. size: a limit on that of files."""
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    sys.argv = ["surgeon", *args]
    main()


def _within(
    environment: dict[str, str], said: Connection, call: Callable[..., None], given: tuple
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said.fileno(), 2)
    said.close()
    call(*given)


def begun(call: Callable[..., None], *given: object) -> tuple[BaseProcess, TextIO]:
    """A call in a process of its own, in this folder and environment: the process, and its stderr."""
    ours, theirs = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_within, args=(dict(os.environ), theirs, call, given))
    process.start()
    theirs.close()
    return process, os.fdopen(os.dup(ours.fileno()))


def ended(process: BaseProcess, stderr: TextIO) -> tuple[int, str]:
    """The exit code, and what else was said."""
    with stderr:
        said = stderr.read()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, said


def interrupted(
    moment: str, args: list[str], number: signal.Signals = signal.SIGINT
) -> tuple[int, str]:
    """Run a command and press Ctrl-C when this progress line appears: exit code and stderr."""
    process, stderr = begun(command, args)
    said = ""
    for line in stderr:
        said += line
        if moment in line:
            assert process.pid is not None
            os.kill(process.pid, number)
            break
    code, rest = ended(process, stderr)
    return code, said + rest


@pytest.mark.parametrize(
    "moment", ["open", "trace and couple", "check", "write slim.pth", "export slim.onnx"]
)
def test_ctrl_c_before_the_end_leaves_nothing(here: Path, moment: str) -> None:
    before = everything(here)
    code, said = interrupted(moment, SHRINK)
    assert code == 130
    assert said.endswith("interrupted\n")
    assert "Traceback" not in said
    assert everything(here) == before


def test_sigterm_leaves_nothing_either(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(here / "tmp"))
    asked = ["shrink", "nets.py:net", "--max-latency", "0.7x", "-o", "out"]
    code, said = interrupted("round 1: measure", asked, signal.SIGTERM)
    assert code == 143
    assert said.endswith("interrupted\n") and "Traceback" not in said
    assert not list((here / "tmp").glob("surgeon-*")) and not Path("out").exists()


def test_ctrl_c_leaves_an_earlier_result_alone(here: Path) -> None:
    assert run([*SHRINK, "--no-onnx", "--quiet"]) == 0
    before = everything(here)
    code, _ = interrupted("export slim.onnx", SHRINK)
    assert code == 130
    assert everything(here) == before


def test_ctrl_c_while_measuring_keeps_the_slim_model(here: Path) -> None:
    code, said = interrupted("measure both", SHRINK)
    assert code == 130
    assert said.endswith("note: out is complete, only its measurements are missing\ninterrupted\n")
    names = {path.name for path in Path("out").iterdir()}
    assert {"slim.pth", "slim.onnx", "plan.json", "report.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    surgeon.load("out/slim.pth")


def test_ctrl_c_during_the_imports() -> None:
    code = "import os, signal, sys, threading, time\nfrom surgeon.cli.main import main\n"
    code += "threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
    code += "sys.argv = ['surgeon', 'inspect', 'torchvision:resnet18']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.endswith("interrupted\n")
    assert "Traceback" not in done.stderr


def test_ctrl_c_between_two_moves_waits(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").mkdir()
    Path("out/plan.json").write_text("old")
    replace = os.replace

    def pressed(source: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", pressed)
    with pytest.raises(KeyboardInterrupt), staging(Path("out")) as stage:
        for name in ("plan.json", "slim.pth"):
            (stage / name).write_text("new")
        publish(stage, Path("out"))
    assert {path.name: path.read_text() for path in Path("out").iterdir()} == {
        "plan.json": "new",
        "slim.pth": "new",
    }


# a full disk: a limit on the size of files fails in the same place and way


@pytest.mark.parametrize("size", [1_000, 47_000])
def test_a_full_disk_is_said_and_leaves_nothing(here: Path, size: int) -> None:
    before = everything(here)
    code, said = ended(*begun(command, SHRINK, size))
    assert code == 2
    assert "error: cannot write" in said
    assert "hint: free some space" in said or "is the disk full" in said
    assert "Traceback" not in said
    assert everything(here) == before


def test_a_full_disk_leaves_an_earlier_result(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run([*SHRINK, "--no-onnx", "--no-measure", "--quiet"]) == 0
    before = everything(here)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run([*SHRINK, "--no-onnx", "--no-measure"]) == 2
    assert everything(here) == before


def save_on_a_full_disk(name: str) -> None:
    """Shrink nets.py:net and write one file of it; what surgeon says of that goes to stderr."""
    source = surgeon.open_model("nets.py:net")
    done = surgeon.shrink(source.model, source.inputs, 0.5, check=False, measure=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        if name == "slim.pth":
            surgeon.save(done, name)
        elif name == "slim.onnx":
            surgeon.export_onnx(done.model, name, done.inputs)
        else:
            done.plan.save(name)
    except BadInput as error:
        print(error.message, file=sys.stderr)


@pytest.mark.parametrize("save", ["slim.pth", "slim.onnx", "plan.json"])
def test_the_api_on_a_full_disk(here: Path, save: str) -> None:
    before = everything(here)
    code, said = ended(*begun(save_on_a_full_disk, save))
    assert code == 0 and "cannot write" in said
    assert everything(here) == before


def test_staging_is_on_the_same_file_system_and_goes(here: Path) -> None:
    with staging(Path("a/b/out")) as stage:
        assert stage.parent == here
        (stage / "slim.pth").touch()
    assert everything(here).keys() == {str(here / "nets.py")}
    with pytest.raises(BadInput, match="cannot write"), staging(Path("out")):
        raise OSError(28, "No space left on device")


def test_what_was_published_has_ordinary_permissions(here: Path) -> None:
    old = os.umask(0o022)
    try:
        with staging(Path("out")) as stage:
            publish(stage, Path("out"))
    finally:
        os.umask(old)
    assert Path("out").stat().st_mode & 0o777 == 0o755
