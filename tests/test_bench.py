"""`surgeon bench`: what is asked of it, one table of models and runtimes, and a network against itself."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from benchmarks.selfsame import network, trial
from surgeon.cli import parse
from surgeon.cli.main import run
from surgeon.errors import BadInput
from surgeon.export import export_onnx
from surgeon.measure.latency import Budget, percentiles, runs_for
from surgeon.measure.layers import placed
from surgeon.report import contest
from surgeon.runner.quantised import quantised

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inside = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.other, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.inside(x) + self.other(x)).relu()
        return self.head(x.mean((2, 3)))

class Decides(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else x.flip(1))

def net():
    torch.manual_seed(0)
    return Net().eval()

def decides():
    torch.manual_seed(0)
    return Decides().eval()
"""

Go = Callable[..., tuple[int, str, str]]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Go:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODELS)
    small = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.2)
    monkeypatch.setattr(contest, "Budget", lambda **_: small)

    def go(*args: str) -> tuple[int, str, str]:
        code = run(["bench", *args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


NET = ("m.py:net", "--input", "1,3,8,8")


class TestOptions:
    def test_several_runtimes_in_one_table(self, go: Go) -> None:
        needs("openvino")
        code, out, err = go(*NET, "--runtime", "ort,openvino", "--runtime", "torch", "--json")
        assert code == 0, err
        found = json.loads(out)["models"]
        runtimes = [one["runtime"].split()[0] for one in found]
        assert runtimes == ["onnxruntime", "openvino", "torch"]
        assert [one["ratio"] is None for one in found] == [True, False, False]
        assert all(one["output_error"] < 1e-5 for one in found)
        assert {one["precision"] for one in found} == {"float32"}
        assert all(one["peak_memory"] > 0 and one["load_s"] > 0 for one in found)

    def test_two_models_in_two_runtimes(self, go: Go) -> None:
        needs("openvino")
        code, out, err = go("m.py:net", *NET, "--runtime", "ort,openvino", "--json")
        assert code == 0, err
        names = [one["name"] for one in json.loads(out)["models"]]
        assert names == [f"m.py:net{n} ({r})" for n in ("", " #2") for r in ("ort", "openvino")]

    def test_a_runtime_that_does_not_exist(self, go: Go) -> None:
        code, _, err = go(*NET, "--runtime", "openvnio")
        assert code == 2
        assert "did you mean openvino?" in err

    def test_a_runtime_that_is_not_installed(self, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
        there = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "ncnn" else there(name)
        )
        code, _, err = go(*NET, "--runtime", "ncnn")
        assert code == 2
        assert "ncnn, which is not installed" in err
        assert "pip install 'model-surgeon[ncnn]'" in err

    def test_a_file_needs_no_converter(self, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
        needs("openvino")
        there = importlib.util.find_spec
        export_onnx(nn.Conv2d(3, 4, 1).eval(), "a.onnx", torch.randn(1, 3, 8, 8))
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: there(name) if name == "openvino" else None
        )
        code, out, err = go("a.onnx", "--runtime", "openvino", "--json")
        assert code == 0, err
        assert json.loads(out)["models"][0]["runtime"].startswith("openvino")

    def test_a_network_that_one_runtime_does_not_take_is_left_out(self, go: Go) -> None:
        decides = ("m.py:decides", "--input", "1,3,8,8")
        code, _, err = go(*decides, "--runtime", "torch-compile,ort")
        assert code == 2
        assert "torch.export cannot be given this network" in err
        code, out, err = go(*decides, "--runtime", "ort,torch", "--json")
        assert code == 0, err
        (left,) = json.loads(out)["left"]
        assert left.startswith("m.py:decides is left out: PyTorch cannot export this model to ONNX")
        assert [one["runtime"].split()[0] for one in json.loads(out)["models"]] == ["torch"]

    def test_what_no_file_can_hold_is_timed_in_process(self, go: Go) -> None:
        code, out, err = go("m.py:decides", "m.py:net", "--input", "1,3,8,8", "--json")
        assert code == 0, err
        first, second = json.loads(out)["models"]
        assert first["runtime"].startswith("torch ")
        assert second["runtime"].startswith("onnxruntime ")
        assert second["ratio"]["value"] > 0
        assert "timed in PyTorch, as there is no ONNX file" in err

    def test_shape_and_batch(self, go: Go) -> None:
        def inputs(*args: str) -> list[list[int]]:
            code, out, err = go(*args, "--json")
            assert code == 0, err
            return json.loads(out)["models"][0]["inputs"]

        assert inputs("m.py:net", "--shape", "12x10") == [[1, 3, 12, 10]]
        assert inputs("m.py:net", "--shape", "16,16", "--batch", "3") == [[3, 3, 16, 16]]
        assert inputs(*NET, "--batch", "2") == [[2, 3, 8, 8]]
        x = torch.randn(2, 3, 8, 8)
        export_onnx(nn.Conv2d(3, 4, 1).eval(), "open.onnx", x)
        assert inputs("open.onnx", "--batch", "5") == [[5, 3, 8, 8]]
        code, _, err = go(*NET, "--shape", "1,2,3,4,5")
        assert code == 2
        assert "no input has 5 dimensions" in err

    def test_percentiles_say_what_they_need(self, go: Go) -> None:
        code, out, err = go(*NET, "--percentiles", "p50,p99.9", "--json")
        assert code == 0
        assert "p99.9 needs 5000 runs" in err
        found = json.loads(out)["models"][0]
        assert found["percentiles"]["p99.9"] is None
        assert found["percentiles"]["p50"] == found["latency"]["median_s"]

    def test_profile_names_modules(self, go: Go) -> None:
        code, out, _ = go(*NET, "--profile", "--json")
        assert code == 0
        layers = json.loads(out)["models"][0]["profile"]
        assert {"stem", "inside", "other", "head"} <= {layer["module"] for layer in layers}
        code, out, _ = go(*NET, "--profile")
        assert "together; the slowest" in out
        assert "inside" in out

    def test_files_whose_names_collide_are_timed_each(self, go: Go) -> None:
        for folder, width in (("a", 4), ("b", 64)):
            Path(folder).mkdir()
            model = nn.Conv2d(3, width, 3).eval()
            export_onnx(model, f"{folder}/2.onnx", torch.randn(1, 3, 8, 8))
        code, out, err = go("a/2.onnx", "b/2.onnx", "--json")
        assert code == 0, err
        sizes = [one["file_bytes"] for one in json.loads(out)["models"]]
        assert sizes == [Path(f"{folder}/2.onnx").stat().st_size for folder in "ab"]

    def test_files_of_another_runtime_are_refused(self, go: Go) -> None:
        export_onnx(nn.Conv2d(3, 4, 1).eval(), "a.onnx", torch.randn(1, 3, 8, 8))
        code, _, err = go("a.onnx", "--runtime", "torch")
        assert code == 2
        assert "a.onnx is no file for PyTorch" in err
        Path("a.pte").write_text("x")
        code, _, err = go("a.pte")
        assert code == 2
        assert "give --input" in err

    def test_no_such_device(self, go: Go) -> None:
        code, _, err = go(*NET, "--device", "moon")
        assert code == 2
        assert "moon" in err

    def test_conditions_are_said(self, go: Go) -> None:
        _, out, _ = go(*NET, "--threads", "2")
        assert "in float32, 2 threads, " in out
        assert "telemetry of onnxruntime is switched off" in out


def test_lists_are_read() -> None:
    assert parse.names(["ort, openvino", "ort"]) == ("ort", "openvino")
    assert parse.sizes("8X4", "--shape") == (8, 4)
    assert parse.percents("p50,99.9") == (50.0, 99.9)
    for text in ("", "0", "p100", "a"):
        with pytest.raises(BadInput):
            parse.percents(text)
    with pytest.raises(BadInput):
        parse.sizes("8,0", "--shape")


def test_percentiles_need_runs_on_both_sides() -> None:
    assert [runs_for(p) for p in (50, 90, 95, 99, 99.9, 1)] == [1, 64, 100, 500, 5000, 500]
    laps = [float(i) for i in range(1, 101)]
    assert percentiles(laps, (50, 90, 99)) == {"p50": 50.5, "p90": pytest.approx(90.1), "p99": None}


class TestLayers:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return (self.a(x) + self.b(x)).relu()

        return export_onnx(Net().eval(), tmp_path / "n.onnx", torch.randn(1, 3, 8, 8)).path

    def names(self, path: Path) -> tuple[dict[str, Any], str]:
        graph = onnx.load(path).graph
        convs = {n.input[1]: n for n in graph.node if n.op_type == "Conv"}
        relu = next(n for n in graph.node if n.op_type == "Relu")
        return convs, relu.output[0] + "_nchwc"

    def test_the_one_that_can_be_meant(self, path: Path) -> None:
        convs, fused = self.names(path)
        lines = [
            {"layer": convs["b.weight"].name, "op": "Convolution", "s": 1.0},
            {"layer": fused, "op": "Conv", "s": 1.0},
            {"layer": "ReorderOutput", "op": "ReorderOutput", "s": 1.0},
        ]
        assert [line["module"] for line in placed(lines, path)] == ["b", "a", None]

    def test_none_where_several_can(self, path: Path) -> None:
        _, fused = self.names(path)
        assert placed([{"layer": fused, "op": "Conv", "s": 1.0}], path)[0]["module"] is None


def test_int8_files_are_known(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    fixed = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    for name, some in (("int8", nodes), ("float", [helper.make_node("Relu", ["x"], ["y"])])):
        graph = helper.make_graph(some, "g", ends[:1], ends[1:], fixed)
        onnx.save(helper.make_model(graph), tmp_path / name)
        assert quantised(tmp_path / name) == (name == "int8")


def test_a_network_against_itself(tmp_path: Path) -> None:
    """A handful of real trials; benchmarks/selfsame.py makes a hundred beside a busy core."""
    random.seed(0)
    x = torch.randn(1, 3, 16, 16)
    path = export_onnx(network(16), tmp_path / "net.onnx", x, dynamic_batch=False).path
    found = [trial(path, x, 0.4) for _ in range(4)]
    assert [ratio.verdict for ratio in found].count("no difference") >= 3
