"""Timing statistics on synthetic series: a clock that only the runs move, so nothing here is noisy."""

import itertools
import json
import random
from collections.abc import Callable

import pytest

from surgeon.measure import Budget, Comparison, compare, time_one
from surgeon.measure.latency import comparison, timing
from surgeon.runner import sampling
from surgeon.runner.sampling import Laps, median_interval


@pytest.fixture(autouse=True)
def never_loses_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated host has its own clock, so what the real one loses meanwhile must not count."""
    monkeypatch.setattr(sampling, "involuntary_switches", lambda: 0)


class Machine:
    """A simulated host: time passes only in runs, and a slow phase slows whatever runs in it."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)

    def clock(self) -> float:
        return self.now

    def network(
        self, seconds: float, noise: float = 0.05, drift: float = 0.0
    ) -> Callable[[], None]:
        def run() -> None:
            slow = 1 + drift * (int(self.now / 3) % 2)  # a neighbour comes and goes every 3 s
            spike = 3.0 if self.random.random() < 0.02 else 1.0
            self.now += seconds * slow * spike * self.random.lognormvariate(0, noise)

        return run


def series(*seconds: float) -> tuple[Callable[[], None], Callable[[], float]]:
    """A run that takes these times in turn, then the last of them for ever, and its clock."""
    machine = Machine(0)
    left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    def run() -> None:
        machine.now += next(left)

    return run, machine.clock


def versus(seed: int, before: float, after: float, **noise: float) -> Comparison:
    machine = Machine(seed)
    runs = {"before": machine.network(before, **noise), "after": machine.network(after, **noise)}
    return compare(runs, Budget(max_s=10), machine.clock, seed)


def test_the_median_interval_covers_the_true_median_95_times_in_100():
    generator = random.Random(1)
    hits = 0
    for _ in range(1000):
        _, low, high = median_interval([generator.expovariate(1.0) for _ in range(40)])
        hits += low <= 0.6931 <= high
    assert 940 <= hits <= 990  # order statistics are discrete: at 40 values 96.2 % is the next step


def test_the_median_interval_is_made_of_order_statistics():
    assert median_interval([float(i) for i in range(1, 31)]) == (15.5, 10.0, 21.0)
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no values"):
        median_interval([])


def test_one_network_against_itself_is_no_difference():
    verdicts = [versus(seed, 0.01, 0.01).ratios["after"].verdict for seed in range(100)]
    assert verdicts.count("no difference") >= 95


def test_nor_is_it_on_a_host_with_a_neighbour():
    verdicts = [versus(s, 0.01, 0.01, drift=0.4, noise=0.1) for s in range(100)]
    assert sum(c.ratios["after"].verdict == "no difference" for c in verdicts) >= 95


def test_rounds_in_which_a_core_was_lost_say_nothing_of_the_ratio():
    first, mine = Laps([1.0] * 40), Laps([0.5] * 40)
    for k in range(0, 40, 2):
        first.laps[k], mine.laps[k] = 9.0, 8.5
        (first if k % 4 else mine).disturbed.append(k)
    found = comparison({"first": first, "mine": mine})
    assert (found.ratios["mine"].value, found.ratios["mine"].rounds) == (0.5, 20)
    assert found.timings["mine"].runs == 40  # a timing keeps every run


def test_where_nearly_every_round_lost_a_core_all_of_them_count():
    first, mine = Laps([2.0] * 40, disturbed=list(range(38))), Laps([1.0] * 40)
    found = comparison({"first": first, "mine": mine}).ratios["mine"]
    assert (found.rounds, found.value) == (40, 0.5)
    first.laps[:38] = [12.0] * 38  # others had the core for the rest, as the CPU clock says
    first.disturbed_s = [2.0] * 38
    found = comparison({"first": first, "mine": mine})
    assert found.ratios["mine"].value == 0.5
    assert found.timings["first"].median_s == 12.0


def test_no_run_is_timed_right_after_the_core_was_lost(monkeypatch: pytest.MonkeyPatch):
    """Of a machine that gives the core to others for 20 ms in every 5 ms, the run that comes next finds cold caches."""
    machine, own, lost, cold = Machine(0), [0.0], [0], [0.0]

    def network(seconds: float) -> Callable[[], None]:
        def run() -> None:
            took, cold[0] = seconds + cold[0], 0.0
            if int((own[0] + took) / 0.005) > int(own[0] / 0.005):
                lost[0] += 1
                cold[0] = 0.001
                machine.now += 0.02
            own[0] += took
            machine.now += took

        return run

    monkeypatch.setattr(sampling, "involuntary_switches", lambda: lost[0])
    runs = {"before": network(0.001), "after": network(0.0005)}
    found = compare(runs, Budget(max_s=10), machine.clock, 0)
    assert found.ratios["after"].value == pytest.approx(0.5)
    assert found.timings["after"].median_s == pytest.approx(0.0005)


@pytest.mark.parametrize("noise", [0.2, 0.5])
@pytest.mark.parametrize("seconds", [0.05, 0.1, 1.0])  # two rounds or three, five, fifty
def test_nor_when_it_is_loud_and_time_is_short(noise, seconds):
    budget = Budget(warmup_runs=1, warmup_s=0, min_s=0, max_s=seconds)
    wrong = 0
    for seed in range(300):
        machine = Machine(seed)
        runs = {name: machine.network(0.01, noise=noise, drift=0.4) for name in "ab"}
        found = compare(runs, budget, machine.clock, seed).ratios["b"]
        wrong += found.verdict != "no difference"
    assert (
        wrong <= 8
    )  # 1 in 100 is 3; a verdict at 95 % is wrong more than 8 times, by the range of few rounds 50 times


def test_a_large_difference_is_found_in_few_rounds():
    machine = Machine(0)
    runs = {"a": machine.network(2.0, noise=0.01), "b": machine.network(1.0, noise=0.01)}
    found = compare(runs, Budget(warmup_runs=1, warmup_s=0, max_s=12), machine.clock)
    assert found.ratios["b"].rounds <= 6
    assert found.ratios["b"].verdict == "faster"


@pytest.mark.parametrize(("after", "verdict"), [(0.009, "faster"), (0.011, "slower")])
def test_ten_percent_is_found(after, verdict):
    found = [versus(seed, 0.01, after).ratios["after"] for seed in range(50)]
    assert all(ratio.verdict == verdict for ratio in found)
    assert sum(ratio.low <= after / 0.01 <= ratio.high for ratio in found) >= 44


def test_half_a_percent_is_no_difference_however_sure():
    ratio = versus(0, 0.01, 0.01005, noise=0.0001).ratios["after"]
    assert ratio.low > 1
    assert ratio.verdict == "no difference"


def test_the_first_run_is_apart_and_warm_up_is_not_timed():
    run, clock = series(5.0, *[0.5] * 4, 0.1)
    timing = time_one(run, Budget(warmup_s=0, max_s=100), clock)
    assert timing.first_s == pytest.approx(5.0)
    assert timing.median_s == pytest.approx(0.1)
    assert timing.outliers == 0


def test_timing_goes_on_until_seconds_and_runs_are_there():
    run, clock = series(0.01)
    assert time_one(run, Budget(), clock).runs == pytest.approx(200, abs=1)
    run, clock = series(0.5)
    assert time_one(run, Budget(), clock).runs == 30


def test_timing_goes_on_until_the_interval_is_narrow_and_ends_at_max_s():
    machine = Machine(3)
    timing = time_one(machine.network(0.01, noise=0.2), Budget(), machine.clock)
    assert (timing.high_s - timing.low_s) / 2 <= 0.01 * timing.median_s
    assert timing.runs > 250
    machine = Machine(3)
    start = machine.now
    timing = time_one(machine.network(1.0, noise=0.8), Budget(max_s=8), machine.clock)
    assert timing.runs < 30
    assert machine.now - start < 20


def test_percentiles_need_runs():
    counts = {}
    for runs in (63, 64, 499, 500):
        run, clock = series(1.0)
        timing = time_one(run, Budget(min_runs=runs, max_s=10_000), clock)
        counts[timing.runs] = (timing.p90_s is not None, timing.p99_s is not None)
    assert counts == {63: (False, False), 64: (True, False), 499: (True, False), 500: (True, True)}


def test_outliers_are_counted_and_not_clipped():
    run, clock = series(*[1.0, 1.1] * 31, 50.0, 50.0, 1.0)
    timing = time_one(run, Budget(warmup_runs=2, min_runs=64, max_s=1000), clock)
    assert timing.outliers == 2
    assert timing.p90_s is not None


def test_several_are_compared_with_the_first():
    machine = Machine(5)
    runs = {name: machine.network(t) for name, t in (("a", 0.01), ("b", 0.005), ("c", 0.02))}
    comparison = compare(runs, Budget(max_s=5), machine.clock)
    assert comparison.first == "a"
    assert {k: r.verdict for k, r in comparison.ratios.items()} == {"b": "faster", "c": "slower"}
    assert json.loads(json.dumps(comparison.as_dict()))["ratios"]["b"]["verdict"] == "faster"
    with pytest.raises(ValueError, match="at least two"):
        compare({"a": runs["a"]})


def test_runs_are_interleaved_in_random_order():
    order: list[str] = []
    machine = Machine(0)

    def network(name: str) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            machine.now += 0.02

        return run

    budget = Budget(warmup_runs=1, warmup_s=0, min_runs=40, min_s=0)
    compare({"a": network("a"), "b": network("b")}, budget, machine.clock)
    rounds = ["".join(order[at : at + 4]) for at in range(2, len(order), 4)]
    assert set(rounds) == {"aabb", "bbaa"}  # each timed run follows an untimed one of its own
    assert 10 <= rounds.count("aabb") <= 30


def test_noise_is_said():
    machine = Machine(0)
    loud = time_one(machine.network(1.0, noise=0.8), Budget(max_s=8), machine.clock)
    assert "% wide" in loud.noise


def test_of_brief_runs_the_cpu_clock_tells_nothing():
    for seconds, said in ((1e-6, ""), (1e-3, "only 10 % of the time was spent on the CPU")):
        assert timing(Laps([seconds] * 30, cpu_s=1.0, around_s=10.0)).noise == said


def test_an_exception_of_the_run_passes_through_and_collection_is_back_on():
    import gc

    run = iter([None] * 10).__next__
    with pytest.raises(StopIteration):
        time_one(run, Budget(warmup_s=0))
    assert gc.isenabled()
