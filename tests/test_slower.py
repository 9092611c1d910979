"""A cut that is no faster says so, and why."""

from dataclasses import replace

import pytest

from surgeon.budget.align import Widths
from surgeon.measure import Measurement
from surgeon.measure.latency import Comparison, Ratio, comparison
from surgeon.measure.pair import BeforeAfter
from surgeon.pipeline import slower
from surgeon.pipeline.slower import notes_of
from surgeon.plan import Cuts, Plan
from surgeon.runner.sampling import Laps

ONE = Measurement(100, 1000, 1000, 400, None, None, None, "onnxruntime", 1)


def measured(verdict: str, flops: int = 800) -> BeforeAfter:
    value = {"slower": 1.5, "no difference": 1.0, "faster": 0.5}[verdict]
    ratio = Ratio(value, value - 0.02, value + 0.02, verdict, 100)
    return BeforeAfter(ONE, replace(ONE, flops=flops), Comparison("before", {}, {"after": ratio}))


def plan(*sizes: tuple[int, int]) -> Plan:
    groups = tuple(Cuts(f"conv{k}", size, kept, True) for k, (size, kept) in enumerate(sizes))
    return Plan({}, groups=groups)


@pytest.mark.parametrize(
    ("verdict", "sizes", "said"),
    [
        ("slower", ((64, 57), (96, 86)), "slower than the original (x1.50 [1.48, 1.52]): kernels fall back"),
        ("slower", ((64, 57), (96, 96)), "conv0 keeps 57; use --round-to auto"),
        ("no difference", ((64, 52), (64, 60)), "most groups keep as many blocks of"),
        ("no difference", ((64, 16), (64, 16)), "FLOPs are 80% of what they were"),
    ],
)  # fmt: skip
def test_a_cut_that_is_no_faster_says_why(verdict: str, sizes, said: str, monkeypatch):
    monkeypatch.setattr(slower, "known", lambda _target: Widths.multiples(16))
    (note,) = notes_of(measured(verdict), plan(*sizes))
    assert said in note


def test_a_noisy_timing_says_so_and_a_quiet_one_nothing():
    first, mine = (Laps([s] * 40, cpu_s=4.0, around_s=10.0) for s in (0.02, 0.01))
    mine.disturbed = [0, 1, 2]
    found = replace(measured("faster"), speed=comparison({"before": first, "after": mine}))
    (note,) = notes_of(found, plan((64, 32)))
    assert "only 40 % of the time was spent on the CPU" in note
    assert "37 of 40 rounds, in which neither network lost its core" in note
    first.cpu_s = mine.cpu_s = 10.0
    quiet = replace(found, speed=comparison({"before": first, "after": mine}))
    assert notes_of(quiet, plan((64, 32))) == ()


def test_a_faster_one_says_nothing():
    assert notes_of(measured("faster"), plan((64, 57))) == ()
    assert notes_of(replace(measured("slower"), speed=None, notes=("no file",)), plan((64, 57))) == ("no file",)  # fmt: skip
