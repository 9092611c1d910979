"""Times by layer, after a limit was searched for: of the files that were measured, beside what was measured."""

from pathlib import Path

import pytest
import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.measure import stand
from surgeon.measure.latency import Budget
from surgeon.measure.target import Target
from surgeon.trace.inputs import Inputs

QUICK = Budget(warmup_runs=1, warmup_s=0.0, min_runs=6, min_s=0.0, max_s=0.2)


def net(width: int) -> nn.Module:
    first, second = nn.Conv2d(3, width, 3), nn.Conv2d(width, 8, 3)
    return nn.Sequential(first, nn.ReLU(), second).eval()


@pytest.fixture
def stood(tmp_path: Path) -> stand.Stand:
    return stand.Stand(net(16), Inputs.of(torch.zeros(1, 3, 8, 8)), Target(), tmp_path, QUICK)


def test_layers_have_their_modules_and_what_was_measured_stays(stood: stand.Stand):
    reading = stood.read(net(8), ["latency"])
    assert reading.comparison.facts["after"].profile is None
    found = stood.profiled(reading)
    assert found.timings == reading.comparison.timings and found.ratios == reading.comparison.ratios
    for name in ("before", "after"):
        profile = found.facts[name].profile
        assert profile and {"0", "2"} <= {line["module"] for line in profile}
        assert found.facts[name].file_bytes == reading.comparison.facts[name].file_bytes


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
    profile = place.profiled(place.read(model, ["latency"])).facts["after"].profile
    assert profile is not None
    paths = {line["module"] for line in profile if "MatMul" in line["op"] or "Gemm" in line["op"]}
    assert paths == {"0.up", "0.down", "1.up", "1.down"}
    (file,) = tmp_path.glob("after-1*.onnx")
    assert str(Path(__file__).parent) not in file.read_bytes().decode("latin-1")


def test_a_device_that_fails_then_loses_nothing(
    stood: stand.Stand, monkeypatch: pytest.MonkeyPatch
):
    reading = stood.read(net(8), ["latency"])

    def gone(*_: object) -> None:
        raise BadInput("the device is gone")

    monkeypatch.setattr(stand, "timed", gone)
    assert stood.profiled(reading) is reading.comparison
