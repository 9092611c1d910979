"""Time callables so that the answer can be trusted: medians with intervals, and callables interleaved.

One run is one call without arguments; what it runs is not known here. Two rules carry the file:

- a time is a median with its 95 % order-statistic interval, and runs go on until that is narrow;
- several are run in random order within one process, round by round, and compared by the median of the
  rounds' log ratios with its sign-test interval. Timed one after the other on a busy host, one network
  came out up to 21 % away from itself; interleaved, at most 1.4 %.

A run that lost its core to others tells of them: a comparison looks at the rounds in which none did, where there are
enough of these (`quiet`), and else at the CPU time of such runs (`steady`). A timing keeps every run.

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
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Callable, Iterator, Mapping, Sequence

from surgeon.runner.noise import involuntary_switches

Run = Callable[[], object]
Clock = Callable[[], float]

LEVEL = 0.95
_SETTLE_S = 0.01
_SETTLE_MOST = 5  # times as long, for the last run before a timed one to keep its core
_QUIET_ROUNDS = 15  # fewer are no sample
_QUIET_SHARE = 0.2  # of all rounds, or the quiet ones are odd ones


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


@dataclass
class Laps:
    """What was measured of one callable: seconds a run, in order, and what the system said about them.

    `first_s` is the first call of all, before warm-up. `around_s` is the wall time of the laps and of
    reading the CPU clock, which is not free; `cpu_s` the CPU seconds within it; `switches` the involuntary
    context switches during laps, None where the system does not tell, `disturbed` which laps saw some, and
    `disturbed_s` the CPU seconds of these.
    """

    laps: list[float] = field(default_factory=list)
    first_s: float | None = 0.0
    cpu_s: float | None = 0.0
    around_s: float = 0.0
    switches: int | None = None
    disturbed: list[int] = field(default_factory=list)
    disturbed_s: list[float] = field(default_factory=list)


def sample(
    runs: Mapping[str, Run],
    budget: Budget,
    clock: Clock = time.perf_counter,
    seed: int = 0,
) -> dict[str, Laps]:
    """Warm every callable up, then time single calls until `budget` is met; several in random turns.

    The budget's seconds are per callable. Of one its precision is asked of the median, of several of every
    ratio to the first. Exceptions of a run pass through. `clock` gives seconds; tests bring their own.
    """
    watches = {name: _Stopwatch(run, clock) for name, run in runs.items()}
    for watch in watches.values():
        watch.warm_up(budget)
    order = list(watches.values())
    pace = _Pace(budget, clock, len(order))
    shuffle = random.Random(seed).shuffle
    with _no_garbage_collection():
        while not pace.done(lambda: _widest([watch.kept for watch in watches.values()])):
            shuffle(order)
            for watch in order:
                watch.lap(settle=len(order) > 1)
    return {name: watch.kept for name, watch in watches.items()}


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """(median, low, high): the median and its interval (95 % unless `level` says else) from order statistics.

    The number of values below the true median is binomial(n, 1/2), whatever the distribution is, so
    the k-th smallest and k-th largest bracket it. Below six values no pair reaches 95 %, below eight none 99 %:
    minimum and maximum are given. Raises ValueError on an empty sequence.
    """
    if not values:
        raise ValueError("no values to take a median of")
    ranked = sorted(values)
    rank = _rank(len(ranked), level)
    return quantile(ranked, 0.5), ranked[rank - 1], ranked[len(ranked) - rank]


def log_ratios(mine: Laps, first: Laps) -> list[float]:
    """One number a quiet round: how much longer `mine` took than `first`, as a logarithm."""
    own, base = steady(mine), steady(first)
    return [math.log(own[k] / base[k]) for k in quiet(mine, first)]


def steady(sampled: Laps) -> list[float]:
    """Seconds of every run; of one that lost its core the CPU seconds, as far as these are less.

    On a core that others use all the time, a run longer than a time slice always waits for them once, and one that
    is a little shorter never does, so that the wall clock says little of either.
    """
    found = list(sampled.laps)
    for at, seconds in zip(sampled.disturbed, sampled.disturbed_s):
        found[at] = min(found[at], seconds) if seconds > 0 else found[at]
    return found


def quiet(mine: Laps, first: Laps) -> list[int]:
    """The rounds in which neither run lost its core; all of them where these are few.

    What a lost core costs is added to both networks, so that ratios come out too near to one.
    """
    count = min(len(mine.laps), len(first.laps))
    lost = {*mine.disturbed, *first.disturbed}
    kept = [k for k in range(count) if k not in lost]
    return kept if len(kept) >= max(_QUIET_ROUNDS, _QUIET_SHARE * count) else list(range(count))


def quantile(ranked: Sequence[float], share: float) -> float:
    """Linear interpolation between the order statistics of an ascending sequence."""
    place = share * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (place - below) * (ranked[above] - ranked[below])


@lru_cache(maxsize=1024)
def _rank(count: int, level: float = LEVEL) -> int:
    """The largest k for which fewer than k of `count` fair coins fall heads at most (1 - level) / 2 of the time."""
    constant = math.lgamma(count + 1) - count * math.log(2)
    # what lies further below the middle than six standard deviations adds less than 1e-8
    start = max(0, math.floor(count / 2 - 3 * math.sqrt(count)))
    below = 0.0
    for heads in range(start, count + 1):
        below += math.exp(constant - math.lgamma(heads + 1) - math.lgamma(count - heads + 1))
        if below > (1 - level) / 2:
            return max(heads, 1)
    return 1


class _Stopwatch:
    """Times single calls of one callable."""

    def __init__(self, run: Run, clock: Clock) -> None:
        self.kept = Laps()
        self._run = run
        self._clock = clock

    def warm_up(self, budget: Budget) -> None:
        start = self._clock()
        self._run()
        self.kept.first_s = self._clock() - start
        runs = 1
        while True:
            spent = self._clock() - start
            enough = runs >= budget.warmup_runs and spent >= budget.warmup_s
            if enough or spent >= budget.max_s / 4:
                return
            self._run()
            runs += 1

    def _settle(self) -> None:
        """Run untimed until the caches are this callable's own: not right after the core was lost, if that can be had."""
        start, spent, lost = self._clock(), 0.0, True
        while spent < _SETTLE_S or (lost and spent < _SETTLE_MOST * _SETTLE_S):
            switches = involuntary_switches()
            self._run()
            lost = switches != involuntary_switches()
            spent = self._clock() - start

    def lap(self, *, settle: bool) -> None:
        if settle:
            self._settle()
        kept = self.kept
        switches = involuntary_switches()
        around, cpu = time.perf_counter(), time.process_time()
        start = self._clock()
        self._run()
        kept.laps.append(self._clock() - start)
        used = time.process_time() - cpu
        kept.cpu_s = (kept.cpu_s or 0.0) + used
        kept.around_s += time.perf_counter() - around
        after = involuntary_switches()
        if switches is not None and after is not None:
            kept.switches = (kept.switches or 0) + after - switches
            if after > switches:
                kept.disturbed.append(len(kept.laps) - 1)
                kept.disturbed_s.append(used)


class _Pace:
    """Says when enough was timed. Asks for the interval rarely: sorting thousands of laps takes time."""

    def __init__(self, budget: Budget, clock: Clock, callables: int) -> None:
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


def _widest(laps: Sequence[Laps]) -> float:
    """Half the width of the widest interval, relative: of the ratios to the first, or of the only median."""
    first, others = laps[0], laps[1:]
    if not others:
        median, low, high = median_interval(first.laps)
        return (high - low) / 2 / median
    intervals = [median_interval(log_ratios(mine, first)) for mine in others]
    return max((high - low) / 2 for _, low, high in intervals)


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
