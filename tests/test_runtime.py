"""Runners give the network's numbers, refuse what they cannot run, and a Measurement holds together."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.export import export_onnx
from surgeon.measure import Budget, compare_models, measure
from surgeon.measure.runtime import (
    OrtRunner,
    Runner,
    TorchRunner,
    as_array,
    evaluating,
    flat_inputs,
    named_tensors,
)

QUICK = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=1)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, x, y, scale=1):
        return {"sum": self.left(x) + scale * self.right(y)}


@pytest.fixture
def two(tmp_path):
    model, inputs = TwoInputs().eval(), (torch.randn(1, 4), torch.randn(1, 6))
    return model, inputs, export_onnx(model, tmp_path / "two.onnx", inputs).path


def test_both_runtimes_give_the_same_numbers(two):
    model, (x, y), path = two
    torch_runner: Runner = TorchRunner(model, (x, y))
    (want,) = torch_runner.outputs()
    for inputs in ((x, y), [x.numpy(), y.numpy()], {"y": y, "x": x}, (x, y, 1)):
        runner: Runner = OrtRunner(path, inputs)
        np.testing.assert_allclose(runner.outputs()[0], want, rtol=1e-5, atol=1e-6)


def test_a_runner_says_what_it_is(two):
    model, inputs, path = two
    runner = OrtRunner(path, inputs, threads=2)
    assert (runner.name, runner.runtime, runner.precision) == ("two", "onnxruntime", "float32")
    assert runner.threads == 2
    assert runner.load_s > 0
    assert runner.file_bytes == path.stat().st_size
    assert runner.version.count(".") == 2
    eager = TorchRunner(model.half(), inputs)
    assert (eager.name, eager.runtime, eager.precision) == ("TwoInputs", "torch", "float16")
    assert eager.file_bytes is None


def test_telemetry_is_off(two):
    assert OrtRunner(two[2], two[1])
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_what_cannot_run_is_refused(two, tmp_path):
    _, (x, y), path = two
    with pytest.raises(BadInput, match=r"takes 2 inputs \(x, y\), 1 were given"):
        OrtRunner(path, x)
    with pytest.raises(BadInput, match=r"takes x of \*,4, and is given 1,6"):
        OrtRunner(path, (y, x)).outputs()
    with pytest.raises(BadInput, match="there is no file"):
        OrtRunner(tmp_path / "none.onnx", x)
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot load text\.onnx"):
        OrtRunner(tmp_path / "text.onnx", x)


def test_torch_runs_in_eval_mode_and_is_left_in_its_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4))
    model[0].eval()
    threads = torch.get_num_threads()
    runner = TorchRunner(model, torch.randn(3, 4), threads=threads + 1)
    first, second = runner.outputs(), runner.outputs()
    runner()
    np.testing.assert_array_equal(first[0], second[0])
    assert torch.get_num_threads() == threads
    assert [module.training for module in model] == [False, True, True]
    assert model[2].num_batches_tracked == 0


def test_modes_come_back_after_an_exception():
    model = nn.Dropout()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training


@dataclass
class Boxes:
    corners: torch.Tensor
    labels: list[torch.Tensor]
    size: int = 3


def test_outputs_are_named_by_their_path():
    one, two, three = (torch.full((1,), float(i)) for i in range(3))
    found = named_tensors({"a": [one, None], "b": Boxes(two, [three])})
    assert [name for name, _ in found] == [
        "output['a'][0]",
        "output['b'].corners",
        "output['b'].labels[0]",
    ]
    assert [float(tensor) for _, tensor in found] == [0.0, 1.0, 2.0]
    assert named_tensors(one)[0][0] == "output"


def test_inputs_are_flattened_and_turned_into_arrays():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert flat_inputs(({"a": [x, 3, None]}, x)) == [x, x]
    assert as_array(x).dtype == np.float32


def test_a_measurement_holds_together(two):
    model, inputs, path = two
    found = measure(model, inputs, onnx=path, budget=QUICK)
    assert (found.params, found.macs, found.flops) == (4 * 8 + 6 * 8 + 16, 80, 80)
    assert found.bytes == 4 * found.params
    assert found.onnx_bytes == path.stat().st_size
    assert found.latency is not None
    assert found.latency.low_s <= found.latency.median_s <= found.latency.high_s
    assert found.runtime.startswith("onnxruntime ")
    assert found.threads == 1
    assert json.loads(json.dumps(found.as_dict()))["latency"]["runs"] == found.latency.runs


def test_measuring_exports_by_itself_and_leaves_nothing(two, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    found = measure(two[0], two[1], budget=QUICK)
    assert found.onnx_bytes
    assert found.notes == ()
    assert sorted(tmp_path.iterdir()) == before


class Branching(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs() if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_timed_in_torch():
    found = measure(Branching(), torch.ones(1, 4), budget=QUICK)
    assert found.runtime.startswith("torch ")
    assert found.onnx_bytes is None
    assert found.notes[0] == "FLOPs leave out aten::fft_rfft"
    assert found.notes[1].startswith("timed in PyTorch, as there is no ONNX file: PyTorch cannot")


def test_counting_alone_times_nothing():
    found = measure(nn.Linear(3, 2), torch.randn(5, 3), latency=False)
    assert (found.flops, found.latency, found.onnx_bytes) == (6, None, None)


def test_two_files_are_compared(two):
    _, inputs, path = two
    comparison = compare_models(path, path, inputs, QUICK)
    assert list(comparison.timings) == ["before", "after"]
    assert comparison.ratios["after"].rounds >= 6


def test_importing_measure_loads_no_torch():
    heavy = "{'torch', 'onnxruntime', 'scipy', 'numpy'}"
    code = (
        f"import sys, surgeon.measure, surgeon.measure.runtime; print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
