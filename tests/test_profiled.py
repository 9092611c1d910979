"""Times by layer, after a limit was searched for: of the files that were measured, beside what was measured."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from surgeon.devices.local import Local
from surgeon.measure import stand
from surgeon.measure.latency import Budget
from surgeon.measure.layers import shares
from surgeon.measure.target import Target
from surgeon.runner import job
from surgeon.runner.sampling import Laps
from surgeon.trace.inputs import Inputs

QUICK = Budget(warmup_runs=1, warmup_s=0.0, min_runs=6, min_s=0.0, max_s=0.2)


def net(width: int) -> nn.Module:
    first, second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 8, 3)
    return nn.Sequential(first, nn.ReLU(), second).eval()


@pytest.fixture
def stood(tmp_path: Path) -> stand.Stand:
    """Large enough that its layers, and not the call, are what takes time."""
    return stand.Stand(net(16), Inputs.of(torch.zeros(1, 3, 96, 96)), Target(), tmp_path, QUICK)


def test_layers_have_their_modules_and_modules_their_times(stood: stand.Stand):
    assert not stood.modules
    amounts = stood.original(["latency"])
    assert amounts["latency"] > 0
    assert {"0", "2"} <= set(stood.modules) and 0.5 <= sum(stood.modules.values()) <= 1.0001
    reading = stood.read(net(8), ["latency"])
    for name in ("before", "after"):
        profile = reading.comparison.facts[name].profile
        assert profile and {"0", "2"} <= {line["module"] for line in profile}
    assert {"0", "2"} <= set(reading.times) and all(t > 0 for t in reading.times.values())


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner without processes of its own, each of which would import torch."""

    def run(_device: Local, asked: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            for name, path in files.items():
                shutil.copyfile(path, Path(folder, name))
            Path(folder, "job.json").write_text(json.dumps(asked))
            return json.loads(json.dumps(job.do(Path(folder))))

    monkeypatch.setattr(Local, "run", run)
    monkeypatch.setattr(stand, "_WANT", ("profile",))  # of memory a process for each file tells
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # which the runner sets


@pytest.mark.usefixtures("in_this_process")
def test_a_runtime_that_tells_no_layers_is_measured_all_the_same(tmp_path: Path):
    one = Inputs.of(torch.zeros(1, 3, 8, 8))
    place = stand.Stand(net(16), one, Target(runtime="torch"), tmp_path, QUICK)
    assert place.original(["latency"])["latency"] > 0 and place.modules == {}
    reading = place.read(net(8), ["latency"])
    assert reading.times == {} and reading.shares["latency"].value > 0


class Mlp(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, inside), nn.Linear(inside, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


def test_linear_layers_and_what_is_fused_with_them_are_their_modules(tmp_path: Path):
    """Their weights are transposed and have no name in the file, and both biases are the same zeros."""
    model = nn.Sequential(Mlp(32), Mlp(16)).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    place = stand.Stand(model, Inputs.of(torch.randn(1, 5, 8)), Target(), tmp_path, QUICK)
    profile = place.read(model, ["latency"]).comparison.facts["after"].profile
    assert profile is not None
    paths = {line["module"] for line in profile if "MatMul" in line["op"] or "Gemm" in line["op"]}
    assert paths == {"0.up", "0.down", "1.up", "1.down"}
    (file,) = tmp_path.glob("after-1*.onnx")
    assert str(Path(__file__).parent) not in file.read_bytes().decode("latin-1")


def test_a_slow_network_is_profiled_in_fewer_runs():
    assert [job._profiled(Laps([s])) for s in (0.001, 0.25, 5.0)] == [20, 8, 3]


def test_a_profile_that_tells_little_tells_no_shares():
    line = {"layer": "x", "op": "Conv", "s": 0.002, "module": "0"}
    other = {**line, "s": 0.003, "module": None}

    class Told:
        facts: ClassVar = {"a": SimpleNamespace(profile=(line, other))}
        timings: ClassVar = {"a": SimpleNamespace(median_s=0.005)}

    assert shares(Told, "a") == {}  # type: ignore[arg-type]
    Told.facts = {"a": SimpleNamespace(profile=(line, line, other))}
    assert shares(Told, "a") == {"0": pytest.approx(0.8)}  # type: ignore[arg-type]
