"""Runtimes: each gives PyTorch's numbers in float32 from a file that was made for it, or says what it cannot do."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgeon.devices.native import TOOLS
from surgeon.errors import BadInput
from surgeon.export import relative_error
from surgeon.measure import Budget
from surgeon.measure.bench import Entry, made, race, timed
from surgeon.measure.facts import Facts
from surgeon.measure.readers import READ_ONNX, READERS
from surgeon.measure.runtime import TorchRunner
from surgeon.measure.target import Target
from surgeon.report.folder import MODELS
from surgeon.runner import engines
from surgeon.runtimes import RUNTIMES, make

QUICK = Budget(warmup_runs=1, warmup_s=0, min_runs=3, min_s=0, max_s=0.2)


def installed(name: str) -> str:
    """The name, where what makes its files and what runs them is there."""
    for package in (RUNTIMES[name].package, engines.PACKAGES[name][0]):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if name == "torch-compile" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    return name


class Residual(nn.Module):
    """Convolutions with a norm, a depthwise one, a shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.head((x + self.depth(x)).mean((2, 3)))


class Named(nn.Module):
    """Keywords in, a plain number among them, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        both = self.left(x) + scale * self.right(y)
        return {"both": both, "soft": both.softmax(1)}


class Decides(nn.Module):
    """What it does depends on the numbers: nothing that records one run can hold it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x.flip(1)


def residual(batch: int = 1) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = Residual()
    net(torch.randn(8, 3, 16, 16))  # statistics that are not the identity
    return net.eval(), torch.randn(batch, 3, 16, 16)


def named() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return Named().eval(), {"y": torch.randn(2, 6), "x": torch.randn(2, 4), "scale": 0.5}


CASES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "one": residual,
    "batch": lambda: residual(3),
    "keywords": named,
}
SPARED = [
    name for name in RUNTIMES if name != "torch-compile"
]  # which compiles for ten seconds: once is enough

File = Callable[..., Path]
Told = Callable[[str], Mapping[str, Facts]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> File:
    """A case's file for a runtime, made once for all that read the same."""

    @cache
    def file(_make: object, name: str, case: str) -> Path:
        folder = tmp_path_factory.mktemp("made")
        return made(*CASES[case](), Target(runtime=name), folder / "net.any")

    def asked(name: str, case: str = "one") -> Path:
        make = RUNTIMES[installed(name)].make
        return file(make, next(n for n in RUNTIMES if RUNTIMES[n].make is make), case)

    return asked


@pytest.fixture(scope="module")
def told(file: File) -> Told:
    """What one process says of all cases in a runtime."""

    @cache
    def told(name: str) -> Mapping[str, Facts]:
        cases = CASES if name in SPARED else ("one",)
        entries = {case: Entry(file(name, case), CASES[case]()[1], name) for case in cases}
        return race(entries, budget=QUICK, want=("outputs",)).facts

    return told


def worst(case: str, name: str, told: Facts) -> float:
    """The largest difference from PyTorch, relative to the output's range."""
    assert told.precision == RUNTIMES[name].precision
    assert told.outputs is not None
    want = TorchRunner(*CASES[case]()).outputs()
    assert len(told.outputs) == len(want)
    return max(relative_error(g, w) for g, w in zip(told.outputs, want, strict=True))


def test_every_runtime_has_an_engine_and_a_line_in_each_table() -> None:
    assert list(RUNTIMES) == list(engines.PACKAGES) == list(READERS)
    assert READ_ONNX == ("ort", "openvino")
    assert {f"slim{made.suffix}" for made in RUNTIMES.values()} <= set(MODELS)
    assert set(TOOLS) <= set(RUNTIMES)
    folder = Path(engines.__file__).parent
    for name in RUNTIMES:
        assert (folder / f"{name.replace('-', '_')}.py").is_file()


@pytest.mark.parametrize("name", RUNTIMES)
class TestEach:
    def test_gives_the_numbers_of_pytorch_in_float32(self, name: str, told: Told) -> None:
        assert worst("one", name, told(installed(name))["one"]) < 1e-5

    def test_what_makes_its_files_is_named_where_it_lacks(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(BadInput, match=rf"needs {RUNTIMES[name].package}, which") as caught:
            make(*residual(), name, tmp_path / "net")
        assert "pip install" in str(caught.value.hint)


@pytest.mark.parametrize("name", SPARED)
class TestMost:
    def test_takes_a_batch(self, name: str, told: Told) -> None:
        assert worst("batch", name, told(installed(name))["batch"]) < 1e-5

    def test_takes_keywords_and_gives_several(self, name: str, told: Told) -> None:
        assert worst("keywords", name, told(installed(name))["keywords"]) < 1e-5

    def test_a_broken_file_is_named(self, name: str, tmp_path: Path) -> None:
        installed(name)
        path = tmp_path / f"net{RUNTIMES[name].suffix}"
        path.write_text("hello")
        with pytest.raises(BadInput, match=rf"cannot load net\{RUNTIMES[name].suffix}"):
            timed({"net": path}, residual()[1], Target(runtime=name), QUICK)

    def test_other_inputs_are_refused(self, name: str, file: File) -> None:
        x = residual()[1]
        with pytest.raises(BadInput, match=r"1 inputs.*2 were given"):
            timed({"net": file(name)}, (x, x), Target(runtime=name), QUICK)


@pytest.mark.parametrize("name", ["torch", "ncnn", "executorch"])
def test_a_network_that_cannot_be_made_into_a_file_is_refused(name: str, tmp_path: Path) -> None:
    installed(name)
    with pytest.raises(BadInput, match="cannot be given this network"):
        made(Decides(), torch.ones(1, 4), Target(runtime=name), tmp_path / "net")


def test_torch_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a folder for what it compiles as soon as it is imported."""
    model, x = nn.Linear(4, 4).eval(), torch.randn(1, 4)
    path = made(model, x, Target(runtime="torch"), tmp_path / "net")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it here, too
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    timed({"net": path}, x, Target(runtime="torch"), QUICK, ("first",))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_compiling_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(1, 4)
    path = made(model, x, Target(runtime="torch-compile"), tmp_path / "net")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "none")
    with pytest.raises(BadInput, match=r"cannot run net\.pt2: InvalidCxxCompiler") as caught:
        timed({"net": path}, x, Target(runtime="torch-compile"), QUICK)
    assert "such as g++" in str(caught.value.hint)


def test_an_op_that_ncnn_has_not_is_named(tmp_path: Path) -> None:
    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x, dim=1)[0]

    installed("ncnn")
    with pytest.raises(BadInput, match=r"it has no layer for aten::sort"):
        made(Sorts(), torch.randn(1, 4), Target(runtime="ncnn"), tmp_path / "net")


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_layers_are_timed_by_the_runtime_itself(name: str, file: File) -> None:
    x = residual()[1]
    found = (
        timed({"net": file(name)}, x, Target(runtime=name), QUICK, ("profile",))
        .facts["net"]
        .profile
    )
    assert found
    assert {"Conv", "Convolution"} & {layer["op"] for layer in found}
    assert all(layer["s"] >= 0 for layer in found)


def test_what_runs_a_file_is_needed_where_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "openvino" else there(name, *a),
    )
    remote = Target("ssh://pi@device.invalid", "openvino")
    assert made(*residual(), remote, tmp_path / "net").name == "net.onnx"
    with pytest.raises(BadInput, match="OpenVINO needs openvino, which is not installed") as caught:
        made(*residual(), Target(runtime="openvino"), tmp_path / "net")
    assert "[openvino]" in str(caught.value.hint)


def test_several_run_in_one_race(file: File) -> None:
    x = residual()[1]
    names = [
        n for n in ("ort", "openvino", "torch") if importlib.util.find_spec(engines.PACKAGES[n][0])
    ]
    found = race({n: Entry(file(n), x, n) for n in names}, budget=QUICK)
    assert {name: facts.runtime for name, facts in found.facts.items()} == {n: n for n in names}
    assert set(found.ratios) == set(names[1:])


def test_telemetry_is_off(file: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's Python package sends an event at every import, through a package of its own."""
    installed("openvino")
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text(
        f"open({str(tmp_path / 'sent')!r}, 'w').close()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    target, x = Target(runtime="openvino"), residual()[1]
    found = timed({"net": file("openvino")}, x, target, QUICK, ("outputs",)).facts["net"]
    assert worst("one", "openvino", found) < 1e-5
    assert not (tmp_path / "sent").exists()
