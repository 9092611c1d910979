"""The runner: one file for any Python from 3.8 on, one line as its answer, and a refusal by name for whatever it cannot do."""

from __future__ import annotations

import ast
import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from surgeon import runner as runner_module
from surgeon.devices import open_device
from surgeon.errors import BadInput
from surgeon.export import export_onnx
from surgeon.measure import Budget
from surgeon.measure.bench import Entry, race, timed
from surgeon.measure.target import Target
from surgeon.runner import MARK, noise, packed
from surgeon.runner.sampling import _rank

QUICK = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.3)
SOURCES = sorted((Path(__file__).parents[1] / "surgeon" / "runner").rglob("*.py"))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.left(x) + self.right(y)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, Path]:
    torch.manual_seed(0)
    model, inputs = TwoInputs().eval(), (torch.randn(1, 4), torch.randn(1, 6))
    path = tmp_path_factory.mktemp("two") / "two.onnx"
    return model, inputs, export_onnx(model, path, inputs, dynamic_batch=False).path


def run(folder: Path, python: str = sys.executable) -> tuple[dict[str, Any], str]:
    """What the packed runner answers to folder/job.json, and what it wrote to stderr."""
    (folder / "runner.pyz").write_bytes(packed())
    done = subprocess.run(
        [python, str(folder / "runner.pyz"), str(folder)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        check=True,
    )
    [line] = done.stdout.splitlines()
    assert line.startswith(MARK)
    return json.loads(line[len(MARK) :]), done.stderr


class TestProgram:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
    def test_is_python_3_8(self, path: Path) -> None:
        ast.parse(path.read_text(), feature_version=(3, 8))

    @pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
    def test_imports_nothing_else_of_surgeon(self, path: Path) -> None:
        nodes = ast.walk(ast.parse(path.read_text()))
        names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        ours = [name for name in names if name.startswith("surgeon")]
        assert all(name.startswith("surgeon.runner") for name in ours)

    def test_is_packed_alike_every_time_and_without_the_package(self) -> None:
        assert packed() == packed()
        with zipfile.ZipFile(io.BytesIO(packed())) as archive:
            assert archive.read("surgeon/__init__.py") == b""
            assert "surgeon/runner/engines/ort.py" in archive.namelist()

    @pytest.mark.parametrize("name", ["python3.8", "python3.9", "python3.13"])
    def test_probes_on_other_pythons(self, name: str, tmp_path: Path) -> None:
        python = shutil.which(name)
        if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
            pytest.skip(f"there is no {name}")
        (tmp_path / "job.json").write_text('{"do": "probe"}')
        answer, _ = run(tmp_path, python)
        assert answer["ok"]["python"].startswith(name.removeprefix("python"))


def test_the_mark_is_written_in_one_place() -> None:
    runner = Path(runner_module.__file__)
    holders = [f for f in runner.parents[1].rglob("*.py") if MARK in f.read_text(encoding="utf-8")]
    assert holders == [runner]


class TestAnswers:
    def refusal(self, folder: Path, job: Any) -> dict[str, str]:
        (folder / "job.json").write_text(job if isinstance(job, str) else json.dumps(job))
        return run(folder)[0]["error"]

    def test_a_job_that_cannot_be_read(self, tmp_path: Path) -> None:
        assert self.refusal(tmp_path, "{")["kind"] == "bad job"
        assert self.refusal(tmp_path, {"do": "dance"})["message"] == "no such thing to do: dance"

    def test_a_runtime_that_is_not_there(self, two: Any, tmp_path: Path) -> None:
        np.savez(tmp_path / "0.npz", **{"0": np.ones(1)})
        model = {"name": "a", "file": "a.onnx", "inputs": "0.npz", "threads": 1}
        job = {"do": "time", "models": [{**model, "runtime": "ort"}]}
        shadow = tmp_path / "site"
        shadow.mkdir()
        (shadow / "onnxruntime.py").write_text(
            "import os\nos.system('echo hello')\nraise ImportError('libfoo.so is missing')"
        )
        (tmp_path / "job.json").write_text(json.dumps(job))
        (tmp_path / "runner.pyz").write_bytes(packed())
        done = subprocess.run(
            [sys.executable, str(tmp_path / "runner.pyz"), str(tmp_path)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(shadow)},
        )
        [line] = done.stdout.splitlines()  # what runtimes print is not among it
        assert "hello" in done.stderr
        error = json.loads(line[len(MARK) :])["error"]
        assert error["kind"] == "no runtime"
        assert "libfoo.so is missing" in error["message"]
        assert error["hint"] == "pip install onnxruntime"

    def test_a_file_for_a_newer_runtime(self, two: Any, tmp_path: Path) -> None:
        import onnx

        proto = onnx.load(two[2])
        proto.ir_version = 99
        (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
        np.savez(tmp_path / "0.npz", **{"0": np.ones((1, 4))})
        model = {
            "name": "a",
            "file": "a.onnx",
            "inputs": "0.npz",
            "threads": 1,
            "runtime": "ort",
        }
        error = self.refusal(tmp_path, {"do": "time", "models": [model]})
        assert error["kind"] == "old runtime"
        assert "pip install -U onnxruntime" in error["hint"]


class TestTimed:
    def test_two_files_with_all_that_can_be_told(self, two: Any) -> None:
        model, inputs, path = two
        want = ("memory", "first", "outputs", "profile")
        found = timed({"a": path, "b": path}, inputs, Target(threads=2), QUICK, want)
        assert found.ratios["b"].rounds >= 6
        told = found.facts["a"]
        assert told.title == f"onnxruntime {told.version}"
        assert (told.precision, told.threads) == ("float32", 2)
        assert told.file_bytes == path.stat().st_size
        assert told.load_s > 0
        assert told.peak_memory is not None
        assert told.peak_memory > 0
        [output] = told.outputs or ()
        np.testing.assert_allclose(output, model(*inputs).detach(), rtol=1e-5, atol=1e-6)
        assert told.profile
        assert "Gemm" in {layer["op"] for layer in told.profile}
        assert all(layer["s"] >= 0 for layer in told.profile)
        assert found.place["cores"] >= 1
        assert json.loads(json.dumps(found.as_dict()))["first"] == "a"

    def test_one_file_has_no_ratio(self, two: Any) -> None:
        found = timed({"a": two[2]}, two[1], budget=QUICK)
        assert list(found.timings) == ["a"]
        assert found.ratios == {}

    def test_inputs_by_name(self, two: Any) -> None:
        _, (x, y), path = two
        same = timed({"a": path}, {"y": y, "x": x}, None, QUICK, ("outputs",)).facts["a"]
        usual = timed({"a": path}, (x, y), None, QUICK, ("outputs",)).facts["a"]
        assert same.outputs is not None
        assert usual.outputs is not None
        np.testing.assert_array_equal(same.outputs[0], usual.outputs[0])

    def test_each_with_its_own_inputs(self, two: Any, tmp_path: Path) -> None:
        net, x = nn.Linear(3, 2).eval(), torch.randn(1, 3)
        other = tmp_path / two[2].name  # the same name in another folder
        export_onnx(net, other, x, dynamic_batch=False)
        found = race({"a": Entry(two[2], two[1]), "b": Entry(other, x)}, budget=QUICK)
        assert set(found.ratios) == {"b"}

    def test_external_data_goes_along(self, two: Any, tmp_path: Path) -> None:
        import onnx

        proto, path = onnx.load(two[2]), tmp_path / "large.onnx"
        onnx.save(
            proto, path, save_as_external_data=True, location="large.onnx.data", size_threshold=0
        )
        told = timed({"a": path}, two[1], budget=QUICK).facts["a"]
        sizes = [path.stat().st_size, (tmp_path / "large.onnx.data").stat().st_size]
        assert told.file_bytes == sum(sizes)

    def test_refusals(self, two: Any, tmp_path: Path) -> None:
        _, (x, y), path = two
        with pytest.raises(BadInput, match=r"takes 2 inputs \(x, y\), 1 were given"):
            timed({"a": path}, x, budget=QUICK)
        with pytest.raises(BadInput, match=r"two\.onnx takes x of 1,4, and is given 1,6"):
            timed({"a": path}, (y, x), budget=QUICK)
        with pytest.raises(BadInput, match="there is no file"):
            timed({"a": tmp_path / "none.onnx"}, x, budget=QUICK)
        (tmp_path / "te xt.onnx").write_text("hello")
        with pytest.raises(BadInput, match=r"ONNX Runtime cannot load 0\.onnx"):
            timed({"a": tmp_path / "te xt.onnx"}, x, budget=QUICK)

    def test_nothing_is_left(self, two: Any, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        timed({"a": two[2]}, two[1], None, QUICK, ("memory", "profile"))
        with pytest.raises(BadInput):
            timed({"a": two[2]}, two[1][0], budget=QUICK)
        assert list(tmp_path.iterdir()) == []

    def test_peak_memory_grows_with_the_network(self, tmp_path: Path) -> None:
        peaks = []
        for width in (16, 2048):
            net, x = nn.Linear(width, width), torch.randn(1, width)
            path = export_onnx(net, tmp_path / f"{width}.onnx", x).path
            peaks.append(timed({"a": path}, x, None, QUICK, ("memory",)).facts["a"].peak_memory)
        small, large = peaks
        assert small is not None
        assert large is not None
        assert large - small > 2048 * 2048 * 4 / 2


class TestTarget:
    def test_names_what_was_meant(self) -> None:
        with pytest.raises(BadInput, match="no runtime 'orf'") as caught:
            Target(runtime="orf")
        assert caught.value.hint == "did you mean ort?"
        with pytest.raises(BadInput, match="threads"):
            Target(threads=0)
        assert str(Target(threads=2)) == "ort, 2 threads"

    def test_devices(self) -> None:
        assert open_device("local").name == "local"
        with pytest.raises(BadInput, match="is no device"):
            open_device("moon")


class TestNoise:
    @pytest.mark.parametrize(
        ("said", "means"),
        [("throttled=0x0", ""), ("throttled=0x50005", "under-voltage, throttled, there was under-voltage, it was throttled")],
    )  # fmt: skip
    def test_a_pi_says_what_slows_it(
        self, said: str, means: str, tmp_path: Path, monkeypatch: Any
    ) -> None:
        tool = tmp_path / "vcgencmd"
        tool.write_text(f"#!/bin/sh\necho {said}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert noise.throttled() == means

    def test_elsewhere_nothing_is_said(self, monkeypatch: Any) -> None:
        monkeypatch.setenv("PATH", "")
        assert noise.throttled() is None


def test_the_interval_is_the_exact_one() -> None:
    draw = random.Random(0)
    for count in (1, 2, 5, 6, 30, 1000, *(draw.randrange(7, 30_000) for _ in range(20))):
        assert _rank(count) == max(int(binom.ppf(0.025, count, 0.5)), 1), count
