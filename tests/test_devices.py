"""How devices are named, what they lack, how the guard behaves by itself, and adb through a stand-in."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sshd import alive, until

from surgeon.cli.main import run
from surgeon.devices import link, open_device
from surgeon.devices.adb import Adb
from surgeon.devices.address import Address, address
from surgeon.devices.lacking import Installed, elsewhere, lacking, renewing
from surgeon.devices.link import Link, start_command
from surgeon.devices.local import Local
from surgeon.devices.native import TOOLS
from surgeon.devices.refused import refused
from surgeon.devices.ssh import Ssh
from surgeon.errors import BadInput
from surgeon.measure.bench import timed
from surgeon.measure.target import Target


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("local", Address("local")),
        ("ssh://pi", Address("ssh", "pi")),
        ("ssh://pi@10.0.0.7:2222", Address("ssh", "10.0.0.7", "pi", 2222)),
        ("ssh://pi@[fe80::1%eth0]:22/", Address("ssh", "fe80::1%eth0", "pi", 22)),
        ("ssh://[::1]", Address("ssh", "::1")),
        ("ssh://a.b@c?python=~/e/bin/python", Address("ssh", "c", "a.b", None, {"python": "~/e/bin/python"})),
        ("ssh://h?python=/a+b/py&folder=/mnt", Address("ssh", "h", None, None, {"python": "/a+b/py", "folder": "/mnt"})),
        ("adb", Address("adb")),
        ("adb:192.168.1.2:5555", Address("adb", "192.168.1.2:5555")),
        ("adb:R3?binary=/data/x", Address("adb", "R3", None, None, {"binary": "/data/x"})),
    ],
)  # fmt: skip
def test_an_address_is_read_and_said_again(text: str, want: Address) -> None:
    assert address(text) == want
    assert address(want.text) == Address(want.kind, want.host, want.user, want.port)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lokal", "did you mean local?"),
        ("Local", "did you mean local?"),
        ("shh://pi@x", "did you mean ssh://pi@x?"),
        ("ssh:pi@x", "did you mean ssh://pi@x?"),
        ("ssh:/pi@x", "did you mean ssh://pi@x?"),
        ("pi@raspberrypi.local", "did you mean ssh://pi@raspberrypi.local?"),
        ("abd:R3", "did you mean adb:R3?"),
        ("ssh://h?pyhton=/x", "did you mean python?"),
        ("ssh://h?python=", "write ssh"),
        ("ssh://", "ssh://user@host"),
        ("ssh://-oProxyCommand=x", "ssh://user@host"),
        ("ssh://-l@h", "ssh://user@host"),
        ("ssh://h:http", "ssh://user@host:22"),
        ("ssh://h:70000", "ssh://user@host:22"),
        ("ssh://h x", "ssh://user@host"),
        ("", "write one of local"),
        ("raspberry", "write one of local"),
        ("adb:-s", "adb"),
    ],
)
def test_what_is_no_address_is_refused_with_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        open_device(text)
    assert hint in (caught.value.hint or "")


def test_each_kind_opens_its_device() -> None:
    assert isinstance(open_device("local"), Local)
    assert isinstance(open_device("ssh://pi@h"), Ssh)
    assert isinstance(open_device("adb"), Adb)
    assert open_device("ssh://pi@h?python=/x").name == "ssh://pi@h"


def test_a_target_of_no_device_is_refused_before_anything_is_made() -> None:
    with pytest.raises(BadInput, match="is no device"):
        Target("shh://pi@h")
    assert Target("ssh://pi@h").device == "ssh://pi@h"


def facts(**more: Any) -> dict[str, Any]:
    found = {"machine": "aarch64", "python": "3.11.2", "numpy": None, "runtimes": {"ort": None}}
    return {**found, **more}


@pytest.mark.parametrize(
    ("python", "package"),
    [("3.13.1", "onnxruntime"), ("3.11.2", "onnxruntime"), ("3.10.4", "onnxruntime==1.23.2"), ("3.8.2", "onnxruntime==1.19.2"), ("3.9.9", "onnxruntime==1.19.2")],
)  # fmt: skip
def test_the_pip_line_is_for_that_python(python: str, package: str) -> None:
    (lack,) = lacking(facts(python=python), Installed("/usr/bin/python3"))
    assert lack.what == "onnxruntime and numpy are not installed"
    assert lack.command == f"/usr/bin/python3 -m pip install {package}"


def test_what_is_there_is_not_missing() -> None:
    assert lacking(facts(numpy="2.0", runtimes={"ort": "1.23.2"}), Installed()) == []
    (lack,) = lacking(facts(runtimes={"ort": "1.23.2"}), Installed())
    assert lack.command == "python3 -m pip install numpy"
    assert lacking(facts(numpy="2.0"), Installed(), ()) == []


def test_a_system_that_manages_its_packages_gets_an_environment() -> None:
    python = Installed("/usr/bin/python3", managed=True)
    (lack,) = lacking(facts(), python)
    assert (
        lack.command
        == "/usr/bin/python3 -m venv ~/surgeon-env && ~/surgeon-env/bin/pip install onnxruntime"
    )
    then = elsewhere(python, "ssh://pi@h")
    assert address(then).options == {"python": "~/surgeon-env/bin/python"}
    assert elsewhere(Installed(), "ssh://pi@h") == ""


@pytest.mark.parametrize(
    ("python", "command"),
    [
        (Installed("py", virtual=True), "py -m pip install onnxruntime"),
        (Installed("py", virtual=True, pip=False), "py -m ensurepip && py -m pip install onnxruntime"),
        (Installed("py", pip=False), "py -m venv ~/surgeon-env && ~/surgeon-env/bin/pip install onnxruntime"),
        (Installed("py", ensurepip=False), "py -m pip install onnxruntime"),
        (Installed("py", managed=True, ensurepip=False), "sudo apt-get install -y python3-venv && py -m venv ~/surgeon-env && ~/surgeon-env/bin/pip install onnxruntime"),
        (Installed("py", virtual=True, pip=False, ensurepip=False), "sudo apt-get install -y python3-venv && py -m ensurepip && py -m pip install onnxruntime"),
    ],
)  # fmt: skip
def test_the_line_brings_pip_where_it_lacks(python: Installed, command: str) -> None:
    (lack,) = lacking(facts(), python)
    assert lack.command == command
    assert bool(elsewhere(python, "ssh://pi@h")) == ("surgeon-env" in command)


def test_where_nothing_brings_pip_that_is_said() -> None:
    (lack,) = lacking(facts(), Installed("py", pip=False, ensurepip=False, apt=False))
    assert lack.command == ""
    assert "py lacks ensurepip" in lack.what


def test_a_runtime_is_renewed_by_its_own_package() -> None:
    assert renewing(Installed("py"), "ort").command == "py -m pip install -U onnxruntime"
    told = renewing(Installed("py"), "litert", broken=True)
    assert told.command == "py -m pip install -U --force-reinstall ai-edge-litert"
    bare = renewing(Installed("py", pip=False, ensurepip=False, apt=False), "ort", broken=True)
    assert not bare.command and "onnxruntime must be installed anew" in bare.what


def test_where_there_is_no_wheel_that_is_said() -> None:
    found = lacking(facts(machine="armv7l", numpy="2.0"), Installed())
    assert [lack.command for lack in found] == [""]
    assert "armv7l" in found[0].what
    found = lacking(facts(), Installed(bits=32))
    assert "32-bit Python" in found[0].what
    assert found[1].command.endswith("pip install numpy")


def test_the_start_command_survives_any_path(tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s a "folder" $HOME'
    odd.mkdir()
    (odd / "python").symlink_to(sys.executable)
    with Link(["sh", "-c", start_command(str(odd / "python"))], str(tmp_path)) as there:
        heard = there.run(b"print('surgeon-runner: {\"ok\": 1}')", {}, {})
    assert heard.answer == {"ok": 1}
    assert heard.code == 0


@pytest.mark.parametrize(
    ("text", "known"),
    [("ssh://h", "-R h"), ("ssh://h:22", "-R h"), ("ssh://h:2222", "-R '[h]:2222'")],
)
def test_a_host_key_is_forgotten_by_the_name_that_ssh_knows(text: str, known: str) -> None:
    warned = "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!"
    assert f"ssh-keygen {known}, then" in str(refused([warned], address(text)))
    told = [
        "Offending ED25519 key in /my files/known:3\r",
        "Host key for my-pi has changed and you\r",
    ]
    said = str(refused([warned, *told], address(text)))
    assert "ssh-keygen -f '/my files/known' -R my-pi, then" in said


SLEEPS = """
import os, time
open({told!r}, "w").write(str(os.getpid()))
time.sleep(100)
"""


def _slept(tmp_path: Path, act: Callable[[Link], None]) -> link.Heard:
    """What is heard of a runner that sleeps, once `act` was done; its folder and itself are gone then."""
    told, folder = tmp_path / "pid", tmp_path / "there"
    folder.mkdir()
    with (
        Link(["sh", "-c", start_command(sys.executable)], str(folder)) as there,
        ThreadPoolExecutor() as pool,
    ):
        program = SLEEPS.format(told=str(told)).encode()
        waiting = pool.submit(there.run, program, {}, {})
        assert until(lambda: told.exists() and told.read_text())
        assert len(list(folder.iterdir())) == 1
        act(there)
        heard = waiting.result(30)
    assert until(lambda: not alive(int(told.read_text())))
    assert until(lambda: not list(folder.iterdir()))
    return heard


def test_a_host_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a cable is pulled: nothing closes, and nothing comes any more."""
    monkeypatch.setattr(link, "PATIENCE", 1.0)
    monkeypatch.setattr(link, "_BEAT", 1000.0)
    assert _slept(tmp_path, lambda _: None).code is None


def test_a_host_that_is_still_there_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PATIENCE", 3.0)
    monkeypatch.setattr(link, "_BEAT", 0.2)
    program = b"import time; time.sleep(5); print('surgeon-runner: {\"ok\": 1}')"
    with Link(["sh", "-c", start_command(sys.executable)], str(tmp_path)) as there:
        assert there.run(program, {}, {}).answer == {"ok": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_guard_that_is_told_to_end_cleans_up(tmp_path: Path, number: int) -> None:
    _slept(tmp_path, lambda there: os.kill(there._child.pid, number))


def test_leaving_ends_it(tmp_path: Path) -> None:
    started = time.monotonic()
    _slept(tmp_path, lambda there: there._hang_up())
    assert time.monotonic() - started < 60


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_full_there(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)  # fmt: skip
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        big = tmp_path / "big"
        big.write_bytes(bytes(1_500_000))
        command = ["sh", "-c", start_command(sys.executable)]
        with Link(command, str(disk)) as there:
            heard = there.run(b"", {}, {"0.onnx": big})
        assert heard.error is not None
        assert heard.error["error"] == "disk full"
        assert heard.started is None  # nothing was sent
        (disk / "others").write_bytes(bytes(2 * 2**20))
        with Link(command, str(disk)) as there:
            heard = there.run(b"", {}, {})
        assert heard.error is not None
        assert heard.error["error"] == "disk full"
        assert [path.name for path in disk.iterdir()] == ["others"]
    finally:
        subprocess.run(["umount", disk], check=False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_local_timing_ends_with_whoever_wanted_it(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    script = f"""
import numpy as np, onnx
from onnx import TensorProto, helper
from pathlib import Path
from surgeon.measure.bench import timed
from surgeon.measure.latency import Budget
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
path = Path({str(tmp_path / "net.onnx")!r})
onnx.save(model, path)
timed({{"a": path}}, np.zeros((1, 8), np.float32), None, Budget(min_s=200.0, max_s=300.0))
"""
    there = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=there,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=interruptible,
    )
    assert until(lambda: any(folder.glob("*/runner.pyz")), 60)
    assert until(lambda: _children(process.pid))
    runners = _children(process.pid)
    os.kill(process.pid, number)
    process.wait(30)
    assert until(lambda: not any(alive(pid) for pid in runners))
    assert until(lambda: not any(folder.glob("*/runner.pyz")))


def interruptible() -> None:
    """SIGINT as in a terminal: what a shell starts in the background is told to ignore it, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


ADB = """\
#!/bin/sh
echo "$@" >> {log}
[ "$1" = -s ] && [ "$2" != R3 ] && {{ echo "error: device '$2' not found" >&2; exit 1; }}
shift 2
case "$1 $2" in
  "shell uname"*) printf 'aarch64\\nPixel 8\\n15\\n9\\nMemTotal: 9 kB\\nMemAvailable:    2048 kB\\n';;
  "shell test -x /data/local/tmp/benchmark_model"*) echo yes;;
  "shell test -x /opt/tool"*) echo yes;;
  "shell /data/local/tmp/benchmark_model"*) [ -n "{silent}" ] || echo 'INFO: Inference timings in us: Init: 1523, First inference: 15234, Warmup (avg): 12890, Inference (avg): 1.234e+04';;
  "shell /opt/tool"*) echo 'I 00:00:00.1 executorch:executor_runner.cpp:330] Model executed successfully 10 time(s) in 140.000000 ms.';;
  "shell test -x /opt/ort"*) echo yes;;
  "shell /opt/ort"*) echo 'Average inference time cost total: 98.5 ms';;
  "shell cat"*) echo schedutil;;
esac
"""


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A stand-in for adb that writes down how it was called."""

    def made(silent: str = "") -> Path:
        log, program = tmp_path / "log", tmp_path / "bin" / "adb"
        program.parent.mkdir(exist_ok=True)
        program.write_text(ADB.format(log=log, silent=silent))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return log

    return made


def _job(runtime: str, *names: str) -> dict[str, Any]:
    models = [
        {"name": n, "runtime": runtime, "file": f"{n}.bin", "inputs": "0.npz", "threads": 2}
        for n in names
    ]
    return {"do": "time", "seed": 1, "models": models, "budget": {"max_s": 60.0}, "want": []}


def test_adb_runs_the_binary_in_turns_and_leaves_nothing(
    adb: Callable[..., Path], tmp_path: Path
) -> None:
    log, file = adb(), tmp_path / "net.bin"
    file.write_bytes(b"12345")
    files = {"a.bin": file, "b.bin": file}
    found = open_device("adb:R3").run(_job("litert", "a", "b"), files)
    assert found["place"]["cpu"] == "Pixel 8"
    assert found["place"]["memory_free"] == 2048 * 1024
    assert "untested on hardware" in found["place"]["note"]
    for name in "ab":
        answer = found["models"][name]
        assert answer["laps"] == pytest.approx([0.01234] * 30)
        assert (answer["load_s"], answer["first_s"]) == pytest.approx((0.001523, 0.015234))
        assert answer["file_bytes"] == 5
    lines = log.read_text().splitlines()
    runs = [line for line in lines if "--graph" in line]
    assert all("-s R3 shell" in line and "--num_threads=2" in line for line in runs)
    order = ["a.bin" in line for line in runs]
    assert all(sum(order[at : at + 2]) == 1 for at in range(0, len(order), 2))  # in pairs
    assert len({tuple(order[at : at + 2]) for at in range(0, len(order), 2)}) == 2  # in both orders
    folder = next(line for line in lines if "mkdir" in line).split()[-1]
    assert lines[-1].split()[-3:] == ["rm", "-rf", folder]


def test_adb_with_a_binary_that_the_user_names(adb: Callable[..., Path], tmp_path: Path) -> None:
    adb()
    file = tmp_path / "net.pte"
    file.write_bytes(b"1")
    found = open_device("adb:R3?binary=/opt/tool").run(_job("executorch", "a"), {"a.bin": file})
    assert found["models"]["a"]["laps"] == pytest.approx([0.014] * 30)


def test_what_adb_tells_is_a_comparison(adb: Callable[..., Path], tmp_path: Path) -> None:
    adb()
    for name in "ab":
        (tmp_path / f"{name}.onnx").write_bytes(b"1")
    files = {name: tmp_path / f"{name}.onnx" for name in "ab"}
    found = timed(files, np.zeros(1, np.float32), Target("adb:R3?binary=/opt/ort", "ort"))
    assert found.timings["a"].median_s == pytest.approx(0.0985)
    assert (found.timings["a"].cpu_share, found.timings["a"].noise) == (None, "")
    assert found.ratios["b"].verdict == "no difference"


def test_adb_takes_the_data_that_an_onnx_file_names(
    adb: Callable[..., Path], tmp_path: Path
) -> None:
    log = adb()
    for name, content in (("a.onnx", b"1"), ("a.onnx.data", b"1234"), ("b.onnx", b"12")):
        (tmp_path / name).write_bytes(content)
    files = {name: tmp_path / f"{name}.onnx" for name in "ab"}
    found = timed(files, np.zeros(1, np.float32), Target("adb:R3?binary=/opt/ort", "ort"))
    assert [found.facts[name].file_bytes for name in "ab"] == [5, 2]
    lines = log.read_text().splitlines()
    folder = next(line for line in lines if "mkdir" in line).split()[-1]
    pushed = [line.split()[-1] for line in lines if " push " in line]
    assert pushed == [f"{folder}/{name}" for name in ("a.onnx", "a.onnx.data", "b.onnx")]
    assert lines[-1].split()[-3:] == ["rm", "-rf", folder]


def test_adb_refuses_with_what_to_do(
    adb: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "net.bin"
    file.write_bytes(b"1")

    def said(text: str, runtime: str) -> str:
        with pytest.raises(BadInput) as caught:
            open_device(text).run(_job(runtime, "a"), {"a.bin": file})
        return str(caught.value)

    log = adb(silent="yes")
    assert "device 'R4' not found" in said("adb:R4", "litert")
    assert "adb -s R3 push onnxruntime_perf_test" in said("adb:R3", "ort")
    assert "no native binary for torch" in said("adb:R3", "torch")
    assert "printed no time" in said("adb:R3", "litert")
    assert "rm -rf" in log.read_text().splitlines()[-1]
    assert run(["device", "adb:R3", "--runtime", "ort"]) == 0
    assert "push onnxruntime_perf_test" in capsys.readouterr().out
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no adb on this machine" in said("adb:R3", "litert")


def test_lines_of_the_native_binaries_are_read() -> None:
    printed = textwrap.dedent("""
        Session creation time cost: 0.217932 s
        First inference time cost: 196 ms
        Average inference time cost total: 98.961997 ms
    """)
    read = TOOLS["ort"].read(printed, 10)
    assert (read.lap, read.load, read.first) == pytest.approx((0.098961997, 0.217932, 0.196))
    assert TOOLS["ort"].read("nothing", 10).lap is None


def test_the_command_line_shows_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["device"]) == 0
    out = capsys.readouterr().out
    assert "machine" in out and "missing" not in out
    assert run(["device", "shh://x"]) == 2
    assert "did you mean ssh://x?" in capsys.readouterr().err
    assert run(["device", "--runtime", "nope"]) == 2
