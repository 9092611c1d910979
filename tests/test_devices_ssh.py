"""Devices over ssh, on a real sshd that the test starts: what comes back, every refusal, and that nothing stays there."""

import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sshd import MISSING, Sshd, alive, until
from test_devices import interruptible

from surgeon.cli.main import run
from surgeon.devices import open_device, ssh
from surgeon.devices.local import Local
from surgeon.errors import BadInput

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

Start = Callable[..., Sshd]
SLEEPS = """
import os, sys, time
open({told!r}, "w").write(str(os.getpid()))
time.sleep(100)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an sshd whose client is the one in PATH; it is stopped after the test, which left nothing there."""
    started: list[Sshd] = []

    def made(**options: Any) -> Sshd:
        server = Sshd(tmp_path / f"sshd{len(started)}", **options)
        started.append(server.__enter__())
        monkeypatch.setenv("PATH", f"{server.folder / 'bin'}:{os.environ['PATH']}")
        return server

    yield made
    try:
        for server in started:
            assert until(lambda: not server.left()), server.left()  # noqa: B023
    finally:
        for server in started:
            server.__exit__()


@pytest.fixture
def network(tmp_path: Path) -> dict[str, Path]:
    """A small ONNX file and its input, by the names that a job gives them."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32) * 3, "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", **{"0": np.arange(8, dtype=np.float32)[None]})
    return {"0.onnx": tmp_path / "net.onnx", "0.npz": tmp_path / "net.npz"}


def timing(seconds: float = 0.1, **more: Any) -> dict[str, Any]:
    budget = {
        "warmup_runs": 1,
        "warmup_s": 0.0,
        "min_runs": 5,
        "min_s": seconds,
        "max_s": seconds,
        "precision": 0.5,
    }
    model = {"name": "net", "runtime": "ort", "file": "0.onnx", "inputs": "0.npz", "threads": 1}
    return {
        "do": "time",
        "seed": 0,
        "models": [model],
        "budget": budget,
        "want": ["outputs"],
        **more,
    }


def sends(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A runner of the test's own."""
    monkeypatch.setattr(ssh, "packed", lambda: textwrap.dedent(code).encode())


def refusal(text: str = "ssh://device", job: Any = None, files: Any = None) -> str:
    with pytest.raises(BadInput) as caught:
        open_device(text).run(job or {"do": "probe"}, files or {})
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return str(caught.value)


def fresh_python(folder: Path) -> Path:
    """A Python without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def test_a_device_is_probed_and_times_what_this_machine_times(
    start: Start, network: dict[str, Path]
) -> None:
    server = start()
    device = open_device("ssh://device")
    here = Local().probe()
    assert {k: device.probe()[k] for k in ("machine", "python", "runtimes", "numpy")} == {
        k: here[k] for k in ("machine", "python", "runtimes", "numpy")
    }
    there = device.run(timing(), network)["models"]["net"]
    assert len(there["laps"]) >= 5
    assert there["outputs"] == Local().run(timing(), network)["models"]["net"]["outputs"]
    assert not server.left()


def test_files_arrive_whole_in_a_folder_of_their_own_that_goes(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    big, empty = tmp_path / "big", tmp_path / "empty"
    big.write_bytes(np.random.default_rng(0).bytes(3_000_001))
    empty.write_bytes(b"")
    sends(monkeypatch, """
        import hashlib, json, os, sys
        sums = {n: hashlib.sha256(open(os.path.join(sys.argv[1], n), "rb").read()).hexdigest() for n in os.listdir(sys.argv[1])}
        mode = oct(os.stat(sys.argv[1]).st_mode & 0o777)
        print("surgeon-runner: " + json.dumps({"ok": {"folder": sys.argv[1], "sums": sums, "mode": mode}}))
    """)  # fmt: skip
    ok = open_device("ssh://device").run({"do": "x"}, {"a b.onnx": big, "0.npz": empty})
    assert ok["sums"]["a b.onnx"] == hashlib.sha256(big.read_bytes()).hexdigest()
    assert ok["sums"]["0.npz"] == hashlib.sha256(b"").hexdigest()
    assert set(ok["sums"]) == {"a b.onnx", "0.npz", "job.json", "runner.pyz"}
    assert Path(ok["folder"]).parent == server.temporary
    assert ok["mode"] == "0o700"
    assert not server.left()


def test_what_a_shell_prints_by_itself_does_no_harm(start: Start) -> None:
    start(force="""printf 'Welcome! surgeon'; echo nonsense >&2;""")
    assert open_device("ssh://device").probe()["python"]


def test_port_user_and_folder_are_taken_from_the_address(start: Start, tmp_path: Path) -> None:
    server = start()
    server.client(Port="1", User="nobody-at-all")
    other = tmp_path / "other"
    other.mkdir()
    config = server.folder / "ssh_config"
    config.write_text(config.read_text().replace("Host device", "Host 127.0.0.1 device"))
    text = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}?folder={other}"
    assert open_device(text).probe()["machine"]
    assert list(other.iterdir()) == []
    assert "cannot write into" in refusal(f"{text}/not-there")


def test_logins_that_fail_are_told_apart(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    server.client(IdentityFile=str(server.folder / "other"))
    assert "refuses the login" in (said := refusal()) and "ssh-copy-id" in said
    server.client()
    server.known("")
    assert "host key of ssh://device is not known" in (said := refusal()) and "ssh device" in said
    server.known((server.folder / "other.pub").read_text())
    assert "another host key" in (said := refusal())
    mend = f"ssh-keygen -f {server.folder / 'known_hosts'} -R '[127.0.0.1]:{server.port}'"
    assert mend in said
    subprocess.run(["sh", "-c", mend], check=True, capture_output=True)
    assert "host key of ssh://device is not known" in refusal()
    server.client(HostName="nowhere.invalid")
    assert "there is no host device" in refusal()
    server.client(Port="1")
    assert "nothing there takes ssh" in refusal()
    server.client(NoSuchOption="yes")
    assert "configuration cannot be used" in refusal()
    monkeypatch.setenv("PATH", str(server.temporary))
    assert "no ssh on this machine" in refusal()


def test_a_host_that_does_not_answer_is_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.setitem(ssh._OPTIONS, "ConnectTimeout", "1")
    server.client(ProxyCommand="sleep 20")
    assert "cannot be reached" in refusal()


def test_a_device_without_python_or_with_an_old_one(start: Start, tmp_path: Path) -> None:
    start(environment={"PATH": str(_sh(tmp_path))})
    assert "ssh://device has no python3" in (said := refusal()) and "3.8" in said
    assert "has no /not/there/python" in refusal("ssh://device?python=/not/there/python")
    old = tmp_path / "old"
    old.write_text(f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 6, 9); code = sys.argv[2]; exec(code)' "$@"
""")
    old.chmod(0o755)
    assert "Python 3.6.9, too old" in refusal(f"ssh://device?python={old}")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'Illegal instruction' >&2\nexit 132\n")
    broken.chmod(0o755)
    assert (
        "does not start" in (said := refusal(f"ssh://device?python={broken}")) and "Illegal" in said
    )


def _sh(folder: Path) -> Path:
    """A folder with `sh` alone."""
    only = folder / "only"
    only.mkdir()
    (only / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    return only


def test_what_is_not_installed_is_said_with_the_line_to_run(
    start: Start, tmp_path: Path, network: dict[str, Path]
) -> None:
    python = fresh_python(tmp_path / "bare")
    text = f"ssh://device?python={python}"
    hidden = tmp_path / "packages"
    hidden.mkdir()
    start(environment={"PYTHONPATH": str(hidden)})
    said = refusal(text, timing(), network)
    assert "not installed" in said
    assert f"{python} -m ensurepip && {python} -m pip install onnxruntime" in said
    for part in Path(np.__file__).parents[1].glob("numpy*"):
        (hidden / part.name).symlink_to(part)
    said = refusal(text, timing(), network)
    assert "onnxruntime is not installed" in said
    assert f"{python} -m pip install onnxruntime" in said


def test_a_runtime_that_is_too_old_is_told_with_what_the_file_needs(
    start: Start, tmp_path: Path, network: dict[str, Path]
) -> None:
    fake = tmp_path / "packages"
    (fake / "onnxruntime").mkdir(parents=True)
    (fake / "onnxruntime-1.10.0.dist-info").mkdir()
    (fake / "onnxruntime-1.10.0.dist-info" / "METADATA").write_text(
        "Name: onnxruntime\nVersion: 1.10.0\n"
    )
    (fake / "onnxruntime" / "__init__.py").write_text("""
__version__ = "1.10.0"
class SessionOptions: pass
class GraphOptimizationLevel: ORT_ENABLE_ALL = 99
def InferenceSession(*args, **kwargs):
    raise RuntimeError("Unsupported model IR version: 8, max supported IR version: 7")
""")
    start(environment={"PYTHONPATH": str(fake)})
    said = refusal("ssh://device", timing(), network)
    assert "max supported IR version: 7" in said
    assert "opset 17 and IR version 8" in said
    assert "pip install -U onnxruntime" in said


def test_a_runtime_that_cannot_be_imported_is_brought_anew_by_its_own_package(
    start: Start, tmp_path: Path, network: dict[str, Path]
) -> None:
    fake = tmp_path / "packages"
    (fake / "openvino").mkdir(parents=True)
    (fake / "openvino" / "__init__.py").write_text("raise ImportError('libfoo.so is missing')")
    (fake / "openvino-1.0.dist-info").mkdir()
    (fake / "openvino-1.0.dist-info" / "METADATA").write_text("Name: openvino\nVersion: 1.0\n")
    start(environment={"PYTHONPATH": str(fake)})
    job = timing()
    job["models"][0]["runtime"] = "openvino"
    said = refusal("ssh://device", job, network)
    assert "openvino cannot be imported there: libfoo.so is missing" in said
    assert "pip install -U --force-reinstall openvino" in said
    assert "onnxruntime" not in said and "opset" not in said


def test_a_full_disk_there(start: Start, tmp_path: Path) -> None:
    start(force="""ulimit -f 100;""")
    big = tmp_path / "big"
    big.write_bytes(bytes(2_000_000))
    assert "no room" in (said := refusal(job={"do": "x"}, files={"0.onnx": big}))
    assert "?folder=" in said


def test_a_file_that_cannot_fit_is_not_sent(start: Start, tmp_path: Path) -> None:
    start()
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**43)  # of which the disk holds nothing
    assert "no room" in refusal(job={"do": "x"}, files={"0.onnx": huge})


def test_a_runner_that_ends_badly_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    sends(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "was killed" in refusal()
    sends(monkeypatch, "raise SystemExit('nothing to say')")
    assert "without an answer" in (said := refusal()) and "nothing to say" in said
    refused = {"error": {"kind": "cannot load", "message": "it is no network", "hint": "look"}}
    sends(monkeypatch, f"import json; print('surgeon-runner: ' + json.dumps({refused!r}))")
    assert "it is no network" in refusal()


def sleeping(told: Path) -> str:
    return SLEEPS.format(told=str(told))


def test_a_connection_that_breaks_midway(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, told = start(), tmp_path / "pid"
    sends(monkeypatch, sleeping(told))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(refusal)
        assert until(lambda: told.exists() and told.read_text())
        assert server.left()
        server.cut()
        assert "broke midway" in waiting.result(30)
    assert until(lambda: not alive(int(told.read_text())))
    assert until(lambda: not server.left())


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_local_side_that_ends_leaves_nothing_there(
    start: Start, tmp_path: Path, how: str
) -> None:
    server, told = start(), tmp_path / "pid"
    script = f"""
import surgeon.devices.ssh as ssh
from surgeon.devices import open_device
ssh.packed = lambda: {sleeping(told).encode()!r}
open_device("ssh://device").run({{"do": "x"}}, {{}})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.DEVNULL, preexec_fn=interruptible
    )
    assert until(lambda: told.exists() and told.read_text(), 60)
    assert server.left()
    process.send_signal(getattr(signal, how))
    assert process.wait(30) != 0
    assert until(lambda: not alive(int(told.read_text())))
    assert until(lambda: not server.left())


def test_ctrl_c_in_a_terminal_reaches_ssh_as_well(start: Start, tmp_path: Path) -> None:
    """Both get the signal there, as a terminal sends it to the whole group."""
    server = start()
    command = [
        sys.executable,
        "-c",
        "from surgeon.cli.main import main; main()",
        "device",
        "ssh://device",
    ]
    server.client(ProxyCommand="sleep 30")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert "look at" in process.stderr.readline()
        assert until(lambda: _has_children(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()


def _has_children(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().strip())


def test_the_command_line_shows_it_and_what_is_missing(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    assert run(["device", "ssh://device", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "ssh://device"
    assert found["missing"] == []
    python = fresh_python(tmp_path / "bare")
    assert run(["device", f"ssh://device?python={python}"]) == 0
    out = capsys.readouterr().out
    assert f"{python} -m pip install onnxruntime" in out
    assert run(["device", "ssh://device?python=/not/there"]) == 2
    assert "error: ssh://device has no /not/there" in capsys.readouterr().err


def test_bench_times_on_the_device(
    start: Start, network: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    start()
    file = str(network["0.onnx"])
    words = ["--device", "ssh://device", "--max-time", "0.3", "--input", "1,8", "--json"]
    assert run(["bench", file, file, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["models"]) == 2
    assert "ssh://device" in json.dumps(found)
