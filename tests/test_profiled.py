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


def test_a_device_that_fails_then_loses_nothing(
    stood: stand.Stand, monkeypatch: pytest.MonkeyPatch
):
    reading = stood.read(net(8), ["latency"])

    def gone(*_: object) -> None:
        raise BadInput("the device is gone")

    monkeypatch.setattr(stand, "timed", gone)
    assert stood.profiled(reading) is reading.comparison
