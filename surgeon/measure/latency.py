"""Time callables so that the answer can be trusted: medians with intervals, and pairs interleaved.

One run is one call without arguments; what it runs is not known here. Two rules carry the file:

- a time is a median with its 95 % order-statistic interval, and runs go on until that is narrow;
- two models are compared in random order within one process, round by round, and the answer is the
  median of the rounds' log ratios with its sign-test interval. Timed one after the other on a busy
  host, one network came out up to 21 % away from itself; interleaved, at most 1.4 %.

Within a round each timed run is preceded by untimed ones of the same callable, because otherwise
every model finds its weights thrown out of the cache by the other, which does not happen in use:
mobilenet_v2 beside resnet18 took 10 % longer than alone without them, 7 % with one, 4 % with four.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Run = Callable[[], object]
Clock = Callable[[], float]
Verdict = Literal["faster", "slower", "no difference"]

P90_RUNS = 64  # below this the 90th percentile rests on fewer than seven runs
P99_RUNS = 500
SMALLEST_DIFFERENCE = 0.01  # a relative difference below this is not called one
_LEVEL = 0.95
_SETTLE_S = 0.01


@dataclass(frozen=True)
class Budget:
    """How long to time: seconds and runs are per callable; `precision` is relative.

    Timing stops when there are `min_runs` runs, `min_s` seconds and an interval whose half-width is
    within `precision` of the median, or after `max_s` seconds. Warm-up may take a quarter of `max_s`.
    """

    warmup_runs: int = 5
    warmup_s: float = 0.5
    min_runs: int = 30
    min_s: float = 2.0
    max_s: float = 30.0
    precision: float = 0.01


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
    first_s: float
    runs: int
    outliers: int
    cpu_share: float
    context_switches: int | None
    pressure: float | None = None

    @property
    def noise(self) -> str:
        """What speaks against this timing, in words; empty when it was quiet."""
        signs = []
        if self.high_s - self.low_s > 0.05 * self.median_s:
            width = 100 * (self.high_s - self.low_s) / self.median_s
            signs.append(f"the interval is {width:.0f} % wide")
        if self.cpu_share < 0.9:
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

    `value` is the median over rounds, `low` to `high` its 95 % sign-test interval. The verdict is a
    difference only where all of the interval lies more than 1 % away from equality.
    """

    value: float
    low: float
    high: float
    verdict: Verdict
    rounds: int


@dataclass(frozen=True)
class Comparison:
    """Timings of all callables, and the ratio of each but the first to the first."""

    first: str
    timings: dict[str, Timing]
    ratios: dict[str, Ratio]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; all times in seconds."""
        return {
            "first": self.first,
            "timings": {name: timing.as_dict() for name, timing in self.timings.items()},
            "ratios": {name: asdict(ratio) for name, ratio in self.ratios.items()},
        }


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high): the median and its 95 % interval from order statistics.

    The number of values below the true median is binomial(n, 1/2), whatever the distribution is, so
    the k-th smallest and k-th largest bracket it. Below six values no pair reaches 95 %: minimum and
    maximum are given. Raises ValueError on an empty sequence.
    """
    from scipy.stats import binom  # half a second to import, and only timing needs it

    if not values:
        raise ValueError("no values to take a median of")
    ranked = sorted(values)
    count = len(ranked)
    rank = max(int(binom.ppf((1 - _LEVEL) / 2, count, 0.5)), 1)
    return _quantile(ranked, 0.5), ranked[rank - 1], ranked[count - rank]


def time_one(run: Run, budget: Budget | None = None, clock: Clock = time.perf_counter) -> Timing:
    """Warm `run` up, then time single calls until `budget` is met.

    Exceptions of `run` pass through. `clock` gives seconds; tests bring their own.
    """
    budget = budget or Budget()
    median_interval([1.0])  # imports scipy now, not between two timed runs
    watch = _Stopwatch(run, clock)
    watch.warm_up(budget)
    pace = _Pace(budget, clock)
    with _no_garbage_collection():
        while not pace.done(lambda: _half_width(watch.laps)):
            watch.lap()
    return watch.timing()


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
    budget = budget or Budget()
    median_interval([1.0])
    watches = {name: _Stopwatch(run, clock) for name, run in runs.items()}
    for watch in watches.values():
        watch.warm_up(budget)
    first, *others = watches
    pace = _Pace(budget, clock, callables=len(watches))
    order = list(watches.values())
    shuffle = random.Random(seed).shuffle

    def widest() -> float:
        return max(
            _half_width(_log_ratios(watches, first, name), relative=False) for name in others
        )

    with _no_garbage_collection():
        while not pace.done(widest):
            shuffle(order)
            for watch in order:
                watch.settle()
                watch.lap()
    return Comparison(
        first=first,
        timings={name: watch.timing() for name, watch in watches.items()},
        ratios={name: _ratio(_log_ratios(watches, first, name)) for name in others},
    )


@dataclass
class _Stopwatch:
    """Times single calls of one callable and keeps what the system says about them."""

    run: Run
    clock: Clock
    laps: list[float] = field(default_factory=list)
    first_s: float = 0.0
    cpu_s: float = 0.0
    around_s: float = 0.0  # wall time of the laps and of reading the CPU clock, which is not free
    switches: int | None = None

    def warm_up(self, budget: Budget) -> None:
        start = self.clock()
        self.run()
        self.first_s = self.clock() - start
        runs = 1
        while (spent := self.clock() - start) < budget.max_s / 4:
            if runs >= budget.warmup_runs and spent >= budget.warmup_s:
                return
            self.run()
            runs += 1

    def settle(self) -> None:
        """Run untimed, at least once, until the caches are this callable's own."""
        start = self.clock()
        self.run()
        while self.clock() - start < _SETTLE_S:
            self.run()

    def lap(self) -> None:
        switches = _involuntary_switches()
        around, cpu = time.perf_counter(), time.process_time()
        start = self.clock()
        self.run()
        self.laps.append(self.clock() - start)
        self.cpu_s += time.process_time() - cpu
        self.around_s += time.perf_counter() - around
        after = _involuntary_switches()
        if switches is not None and after is not None:
            self.switches = (self.switches or 0) + after - switches

    def timing(self) -> Timing:
        median, low, high = median_interval(self.laps)
        ranked = sorted(self.laps)
        quarter, three_quarters = _quantile(ranked, 0.25), _quantile(ranked, 0.75)
        fence = 1.5 * (three_quarters - quarter)
        outside = (lap < quarter - fence or lap > three_quarters + fence for lap in ranked)
        return Timing(
            median_s=median,
            low_s=low,
            high_s=high,
            p90_s=_quantile(ranked, 0.9) if len(ranked) >= P90_RUNS else None,
            p99_s=_quantile(ranked, 0.99) if len(ranked) >= P99_RUNS else None,
            first_s=self.first_s,
            runs=len(ranked),
            outliers=sum(outside),
            cpu_share=self.cpu_s / max(self.around_s, 1e-9),
            context_switches=self.switches,
            pressure=_cpu_pressure(),
        )


class _Pace:
    """Says when enough was timed. Asks for the interval rarely: sorting thousands of laps takes time."""

    def __init__(self, budget: Budget, clock: Clock, callables: int = 1) -> None:
        self._budget = budget
        self._clock = clock
        self._callables = callables
        self._start = clock()
        self._rounds = -1
        self._next_look = budget.min_runs

    def done(self, half_width: Callable[[], float]) -> bool:
        """Called before every round; `half_width` is relative and asked for when it could end."""
        self._rounds += 1
        if self._rounds == 0:
            return False
        spent = (self._clock() - self._start) / self._callables
        if spent >= self._budget.max_s:
            return True
        if self._rounds < self._next_look or spent < self._budget.min_s:
            return False
        self._next_look = math.ceil(self._rounds * 1.1)
        return half_width() <= self._budget.precision


def _half_width(values: Sequence[float], *, relative: bool = True) -> float:
    median, low, high = median_interval(values)
    return (high - low) / 2 / (median if relative else 1.0)


def _log_ratios(watches: Mapping[str, _Stopwatch], first: str, name: str) -> list[float]:
    pairs = zip(watches[name].laps, watches[first].laps, strict=True)
    return [math.log(mine / base) for mine, base in pairs]


def _ratio(logs: Sequence[float]) -> Ratio:
    value, low, high = (math.exp(number) for number in median_interval(logs))
    verdict: Verdict = "no difference"
    if high < 1 - SMALLEST_DIFFERENCE:
        verdict = "faster"
    elif low > 1 + SMALLEST_DIFFERENCE:
        verdict = "slower"
    return Ratio(value, low, high, verdict, len(logs))


def _quantile(ranked: Sequence[float], share: float) -> float:
    """Linear interpolation between the order statistics of an ascending sequence."""
    place = share * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (place - below) * (ranked[above] - ranked[below])


def _involuntary_switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _cpu_pressure() -> float | None:
    """Linux pressure stall information, `some avg10` in percent; None where there is none."""
    try:
        with open("/proc/pressure/cpu", encoding="ascii") as file:
            return float(file.readline().split()[1].removeprefix("avg10="))
    except (OSError, ValueError, IndexError):
        return None


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """As timeit does: a collection inside a run is Python's time, not the network's."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
