"""What laps say: a timing with its interval, ratios with theirs, and a verdict.

How the laps are run is `surgeon/runner/sampling.py`; it is the same on this machine and on a device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from surgeon.runner.noise import cpu_pressure
from surgeon.runner.sampling import (
    Budget,
    Clock,
    Laps,
    Run,
    log_ratios,
    median_interval,
    quantile,
    sample,
)

if TYPE_CHECKING:
    from surgeon.measure.facts import Facts

Verdict = Literal["faster", "slower", "no difference"]

_BRIEF_S = 5e-5  # reading the CPU clock takes a microsecond, so of shorter runs it tells nothing
_SURE = 0.99  # of verdicts
_BY_RANGE = {2: 31.83, 3: 3.008, 4: 1.316, 5: 0.843, 6: 0.628, 7: 0.507}  # 99 % on both sides
P90_RUNS = 64  # below this the 90th percentile rests on fewer than seven runs
P99_RUNS = 500
_BEYOND = 5  # runs beyond a percentile that it takes at least
SMALLEST_DIFFERENCE = 0.01  # a relative difference below this is not called one


@dataclass(frozen=True)
class Timing:
    """The seconds one run takes, and how much of that to believe.

    `low_s` to `high_s` is the 95 % order-statistic interval of the median (minimum to maximum below
    six runs). Percentiles are None where there are too few runs for them. `first_s` is the first
    call made here. `outliers` lie outside Tukey's fences (1.5 interquartile ranges beyond the
    quartiles): counted, never clipped. `cpu_share` is CPU seconds per wall second of the process, so
    about the number of threads on a quiet machine; `context_switches` counts the involuntary ones
    during timed runs (None where the system does not say); `pressure` is Linux's share of the last
    ten seconds in which something waited for a CPU, in percent.
    """

    median_s: float
    low_s: float
    high_s: float
    p90_s: float | None
    p99_s: float | None
    first_s: float | None
    runs: int
    outliers: int
    cpu_share: float | None
    context_switches: int | None
    pressure: float | None = None

    @property
    def noise(self) -> str:
        """What speaks against this timing, in words; empty when it was quiet."""
        signs = []
        if self.high_s - self.low_s > 0.05 * self.median_s:
            width = 100 * (self.high_s - self.low_s) / self.median_s
            signs.append(f"the interval is {width:.0f} % wide")
        if self.cpu_share is not None and self.cpu_share < 0.9 and self.median_s > _BRIEF_S:
            signs.append(f"only {100 * self.cpu_share:.0f} % of the time was spent on the CPU")
        if (self.context_switches or 0) > self.runs:
            signs.append(f"{self.context_switches} involuntary context switches")
        return "; ".join(signs)

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON; all times in seconds."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How long a run takes relative to the first callable's: 0.5 is half the time.

    `value` is the median over `rounds`, those in which neither lost its core (`quiet`), `low` to `high` its 95 %
    sign-test interval. The verdict is a difference only where all of the 99 % interval lies more than 1 % away from
    equality.
    """

    value: float
    low: float
    high: float
    verdict: Verdict
    rounds: int


@dataclass(frozen=True)
class Comparison:
    """Timings of all callables, and the ratio of each but the first to the first.

    `facts` are the runtime's about each, `place` those of the machine, where a runner timed them; `laps` are the
    seconds of every run.
    """

    first: str
    timings: dict[str, Timing]
    ratios: dict[str, Ratio]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    place: Mapping[str, Any] = field(default_factory=dict)
    laps: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; all times in seconds."""
        return {
            "first": self.first,
            "timings": {name: timing.as_dict() for name, timing in self.timings.items()},
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios.items()},
        }


def time_one(run: Run, budget: Budget | None = None, clock: Clock = time.perf_counter) -> Timing:
    """Warm `run` up, then time single calls until `budget` is met.

    Exceptions of `run` pass through. `clock` gives seconds; tests bring their own.
    """
    return timing(sample({"": run}, budget or Budget(), clock)[""], cpu_pressure())


def compare(
    runs: Mapping[str, Run],
    budget: Budget | None = None,
    clock: Clock = time.perf_counter,
    seed: int = 0,
) -> Comparison:
    """Time several callables against the first, interleaved in an order shuffled every round.

    The budget's seconds are per callable, and its precision is asked of every ratio. Raises
    ValueError for fewer than two callables; exceptions of a run pass through.
    """
    if len(runs) < 2:
        raise ValueError("a comparison needs at least two callables")
    return comparison(sample(runs, budget or Budget(), clock, seed), cpu_pressure())


def comparison(sampled: Mapping[str, Laps], pressure: float | None = None) -> Comparison:
    """The timings of what was sampled together, and the ratios to the first."""
    first, *others = sampled
    base = sampled[first]
    return Comparison(
        first=first,
        timings={name: timing(laps, pressure) for name, laps in sampled.items()},
        ratios={name: _ratio(log_ratios(sampled[name], base)) for name in others},
        laps={name: laps.laps for name, laps in sampled.items()},
    )


def timing(sampled: Laps, pressure: float | None = None) -> Timing:
    """The summary of one callable's laps."""
    median, low, high = median_interval(sampled.laps)
    ranked = sorted(sampled.laps)
    quarter, three_quarters = quantile(ranked, 0.25), quantile(ranked, 0.75)
    fence = 1.5 * (three_quarters - quarter)
    outside = (lap < quarter - fence or lap > three_quarters + fence for lap in ranked)
    return Timing(
        median_s=median,
        low_s=low,
        high_s=high,
        p90_s=quantile(ranked, 0.9) if len(ranked) >= P90_RUNS else None,
        p99_s=quantile(ranked, 0.99) if len(ranked) >= P99_RUNS else None,
        first_s=sampled.first_s,
        runs=len(ranked),
        outliers=sum(outside),
        cpu_share=_share(sampled),
        context_switches=sampled.switches,
        pressure=pressure,
    )


def _share(sampled: Laps) -> float | None:
    """None where the device does not tell."""
    if sampled.cpu_s is None:
        return None
    return sampled.cpu_s / max(sampled.around_s, 1e-9)


def runs_for(percent: float) -> int:
    """How many runs a percentile needs before it means something: 64 for p90, 500 for p99, 5000 for p99.9."""
    if percent == 50:
        return 1
    return max(P90_RUNS, round(_BEYOND / (1 - max(percent, 100 - percent) / 100)))


def percentiles(laps: Sequence[float], percents: Sequence[float]) -> dict[str, float | None]:
    """{'p90': seconds}; None where there are too few runs for it."""
    ranked = sorted(laps)
    return {
        f"p{percent:g}": quantile(ranked, percent / 100)
        if len(ranked) >= runs_for(percent)
        else None
        for percent in percents
    }


def _ratio(logs: Sequence[float]) -> Ratio:
    value, low, high = (math.exp(number) for number in median_interval(logs))
    return Ratio(value, low, high, _verdict(logs), len(logs))


def _verdict(logs: Sequence[float]) -> Verdict:
    low, high = _sure(logs)
    if high < math.log(1 - SMALLEST_DIFFERENCE):
        return "faster"
    if low > math.log(1 + SMALLEST_DIFFERENCE):
        return "slower"
    return "no difference"


def _sure(logs: Sequence[float]) -> tuple[float, float]:
    """The 99 % interval that a verdict rests on.

    At 95 % one network against itself came out different in 3 of 100 simulated trials on a noisy host, where the
    interval is wider than the smallest difference: rounds are looked at several times before timing ends, neighbours slow runs that follow one
    another, and a bench is run more than once. Below eight rounds no order statistics reach 99 %, and the minimum
    and the maximum of three lie on one side of equality in a quarter of all trials: there the median may be off by a
    multiple of the range (Lord, Biometrika 1947), so that only large differences are called.
    """
    if len(logs) < 2:
        return -math.inf, math.inf
    middle, low, high = median_interval(logs, _SURE)
    if len(logs) in _BY_RANGE:
        reach = _BY_RANGE[len(logs)] * (high - low)
        return middle - reach, middle + reach
    return low, high
