"""Limits that only a measurement tells: parsed, predicted, searched for and met, on a clock that the test holds."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import surgeon
from surgeon.budget import Limit
from surgeon.budget.align import Grid, Widths, keep_count
from surgeon.budget.cost import Total
from surgeon.budget.limit import COUNTED, MEASURED, Span
from surgeon.budget.mix import RATES, Mix, assumed, fitted
from surgeon.budget.pace import Paces
from surgeon.budget.request import Request
from surgeon.budget.search import CLOSE, Search
from surgeon.budget.work import KINDS, Work
from surgeon.cli.shrink import shrink as shrink_command
from surgeon.cli.sweep import sweep as sweep_command
from surgeon.errors import BadInput, OutOfReach
from surgeon.measure import Measurement, stand, widths
from surgeon.measure.latency import Budget
from surgeon.measure.pair import BeforeAfter
from surgeon.measure.stand import Reading
from surgeon.measure.target import Target
from surgeon.measure.widths import PROBED, grids
from surgeon.pipeline import asked as asking
from surgeon.pipeline import limited
from surgeon.pipeline.asked import Options
from surgeon.report.quantities import QUANTITIES
from surgeon.trace.inputs import Inputs

torch.set_num_threads(1)
X = torch.randn(1, 3, 32, 32)
ANY = Widths.multiples(1)


class Plain(nn.Sequential):
    """Four convolutions of 64 channels and a head."""

    def __init__(self, width: int = 64) -> None:
        sizes = [3, width, width, width, width]
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def net(width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return Plain(width).eval()


# --- limits as people write them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "what", "value", "relative", "again"),
    [
        ("0.5x", "max_latency", 0.5, True, "0.5x"),
        ("12ms", "max_latency", 0.012, False, "12ms"),
        ("0.012 s", "max_latency", 0.012, False, "0.012 s"),
        ("800us", "max_latency", 8e-4, False, "800us"),
        ("4MB", "max_size", 4e6, False, "4MB"),
        ("512KiB", "max_memory", 512 * 1024, False, "512KiB"),
        ("900M", "max_flops", 9e8, False, "900M"),
        ("123456789", "max_params", 123456789, False, "123456789"),
        ("9e+08", "max_flops", 9e8, False, "9e+08"),
    ],
)
def test_limits_as_people_write_them(
    text: str, what: str, value: float, relative: bool, again: str
):
    limit = Limit.parse(text, what)
    assert (limit.value, limit.relative, str(limit)) == (pytest.approx(value), relative, again)
    assert Limit.parse(str(limit), what) == limit
    assert limit.share(2 * value) == pytest.approx(value if relative else 0.5)


@pytest.mark.parametrize(
    ("text", "what", "said", "hint"),
    [
        ("12", "max_latency", "has no unit", "0.5x, 12ms or 0.012s"),
        ("12 parsecs", "max_latency", "is not a limit", "12ms"),
        ("4M", "max_size", "is not a limit", "4MB"),
        ("1.5x", "max_latency", "at most 1x", "0.5x"),
        ("0ms", "max_latency", "above 0", "12ms"),
        ("12ms", "max_flops", "is not a limit", "900M"),
    ],
)
def test_a_limit_that_is_none_says_how_to_write_one(text: str, what: str, said: str, hint: str):
    with pytest.raises(BadInput) as caught:
        Limit.parse(text, what)
    assert said in caught.value.message and hint in caught.value.hint


def test_every_limit_is_in_every_table_and_can_be_asked_for_everywhere():
    assert set(QUANTITIES) == {*COUNTED, *MEASURED}
    assert set(RATES) == set(MEASURED) and set(COUNTED) <= set(Total.__annotations__)
    assert {quantity.key for quantity in QUANTITIES.values()} <= set(Measurement.__annotations__)
    for asked in (
        Request.__annotations__,
        Options.__annotations__,
        signature(shrink_command).parameters,
        signature(sweep_command).parameters,
    ):
        found = {name for name in asked if name.startswith("max_")}
        assert found == {f"max_{what}" for what in QUANTITIES}


def test_a_limit_stands_alone():
    with pytest.raises(BadInput, match="contradict"):
        surgeon.shrink(net(), X, ratio=0.5, max_latency="0.5x")
    with pytest.raises(BadInput, match="known once cuts were measured"):
        surgeon.propose(net(), X, max_latency="0.5x")
    with pytest.raises(BadInput, match="in one cut"):
        surgeon.shrink(net(), X, max_latency="0.5x", steps=3)
    with pytest.raises(BadInput) as caught:
        surgeon.shrink(net(), X, max_latency="0.5x", runtime="openvnio")
    assert caught.value.hint == "did you mean openvino?"


# --- widths ------------------------------------------------------------------------------------


def test_a_grid_has_whole_blocks_and_finer_counts_below_one():
    grid = Grid(16, 4)
    assert [grid.down(n) for n in (64, 63, 17, 16, 15, 5, 3)] == [64, 48, 16, 16, 12, 4, 0]
    assert [grid.up(n) for n in (0, 4, 13, 15, 16, 17, 48)] == [4, 8, 16, 16, 32, 32, 64]
    assert keep_count(16, 0.5, 16, 4) == 8 and keep_count(64, 0.3, 16, 4) == 48


def test_widths_are_read_from_times():
    """Blocks of 16 with an expensive way round for counts that do not divide by 4, as ONNX Runtime has it."""
    blocked = {w: float((-(-w // 16)) ** 2) * (1.4 if w % 4 else 1) for w in PROBED}
    below = {w: blocked[w] if w >= 16 else w / 16 for w in PROBED}
    dear = {w: blocked[w] if w >= 16 else 1.5 for w in PROBED}
    steady = {w: w**2 for w in PROBED}
    found = grids({"conv": below, "pointwise": dear, "depthwise": blocked, "linear": steady})
    assert found["conv"] == Grid(16, 4)
    assert found["pointwise"] == found["depthwise"] == Grid(16, 16)
    assert found["linear"].block <= 4


def test_widths_are_timed_once_for_a_runtime_and_kept(tmp_path, monkeypatch):
    asked = []

    def times(target: Target) -> dict[str, dict[int, float]]:
        asked.append(target)
        return {kind: {w: float((-(-w // 8)) ** 2) for w in PROBED} for kind in RATES_OF}

    monkeypatch.setattr(widths, "times", times)
    cache = tmp_path / "widths.json"
    first, again = (widths.probed(Target(), cache) for _ in range(2))
    assert first.block == 8 and again == first and len(asked) == 2
    widths.probed(Target(threads=2), cache)
    assert len(asked) == 4
    cache.write_text("{ not json")
    assert widths.probed(Target(), cache) == first and len(asked) == 6


def test_what_was_probed_is_written_once_and_needs_no_cache(tmp_path, monkeypatch):
    table = {kind: {w: float((-(-w // 8)) ** 2) for w in PROBED} for kind in RATES_OF}
    monkeypatch.setattr(widths, "times", lambda _target: table)
    found = widths.probed(Target(), tmp_path / "new" / "w.json")
    written = []
    monkeypatch.setattr(widths, "write_text", lambda *given: written.append(given))
    assert widths.probed(Target(), tmp_path / "new" / "w.json") == found and not written
    (tmp_path / "file").write_text("")
    assert widths.probed(Target(), tmp_path / "file" / "w.json") == found  # its folder is a file


def test_probes_that_do_not_agree_are_not_kept(tmp_path, monkeypatch):
    blocks = iter((1, 4, 8, 16))

    def times(target: Target) -> dict[str, dict[int, float]]:
        block = next(blocks)
        return {kind: {w: float((-(-w // block)) ** 2) for w in PROBED} for kind in RATES_OF}

    monkeypatch.setattr(widths, "times", times)
    assert widths.probed(Target(), tmp_path / "w.json") == widths.known(Target())
    assert not (tmp_path / "w.json").exists()


RATES_OF = ("conv", "pointwise", "depthwise", "linear")


def test_the_work_of_a_width_is_what_it_takes_to_run():
    told = {"conv": {w: float((-(-w // 16)) ** 2) for w in PROBED}, "depthwise": {w: float(w) for w in PROBED}}  # fmt: skip
    found = widths.sizes(told)
    assert found["conv"][12] == found["conv"][16] == 16 and found["conv"][40] == 48
    assert found["depthwise"][8] == 8 and 65 not in found["conv"]
    grids = dict.fromkeys(RATES_OF, Grid(16, 4))
    here = Widths(grids, found)
    assert [here.worked("conv", n) for n in (3, 30, 65, 128)] == [16, 32, 80, 128]
    assert [here.worked("linear", n) for n in (3, 13, 17)] == [4, 16, 32]


def test_real_layers_are_timed_where_a_runtime_reads_onnx(monkeypatch):
    monkeypatch.setattr(widths, "_BUDGET", replace(widths._BUDGET, min_runs=3))  # of each of 76
    found = widths.times(Target())
    assert set(found) == set(RATES_OF) and all(set(t) == set(PROBED) for t in found.values())
    assert all(s > 0 for t in found.values() for s in t.values())
    assert found["conv"][80] > 2 * found["conv"][8]


# --- what is predicted -------------------------------------------------------------------------


def test_work_by_kind_is_counted_with_widths_padded():
    traced = surgeon.trace(net(), X)
    group = next(g for g in traced.groups if g.name == "0")
    removed = traced.coupling.removed(group.atoms[:15])
    for block, left in ((1, 49), (16, 64)):
        work = Work(traced.coupling, Widths.multiples(block))
        before, after = dict(zip(KINDS, work.whole, strict=True)), dict(zip(KINDS, work.after(removed), strict=True))  # fmt: skip
        gone = before["dense"] - after["dense"]
        pixels = 2 * 32 * 32 * 9
        padded_input = 3 if block == 1 else 16
        assert gone == pixels * (64 - left) * (padded_input + 64)
        assert after["weights"] < before["weights"]
        assert before["depthwise"] == before["products"] == 0


class Attention(nn.Module):
    """Two heads of eight over 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def works(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    return dict(zip(KINDS, Work(surgeon.trace(model.eval(), x).coupling, ANY).whole, strict=True))


def test_depthwise_and_attention_are_kinds_of_their_own():
    work = works(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)), X)
    assert work["depthwise"] == 2 * 30 * 30 * 9 * 8 and work["dense"] == 2 * 32 * 32 * 3 * 8
    work = works(Attention(), torch.randn(2, 5, 16))
    assert work["products"] == 2 * 2 * (2 * 5 * 5 * 8)
    assert work["dense"] == 2 * 5 * (16 * 48 + 16 * 16)


def test_what_runs_together_with_a_convolution_moves_nothing():
    fused = works(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()), X)
    apart = works(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid(), nn.BatchNorm2d(8)), X)
    assert fused["moved"] == 0 and apart["moved"] == 2 * (2 * 8 * 32 * 32)


def test_a_mix_learns_from_what_was_measured():
    whole = dict.fromkeys(KINDS, 1e6) | {"fixed": 1.0}
    first = assumed(whole, RATES["latency"])
    assert first.of(np.ones(len(KINDS))) == pytest.approx(1.0)
    truth = Mix(np.array([0.3, 0.3, 0, 0.2, 0, 0, 0, 0.2]))
    rng = np.random.default_rng(0)
    lefts = [np.append(rng.uniform(0.2, 1, len(KINDS) - 1), 1.0) for _ in range(12)]
    seen = [(left, Span.exact(truth.of(left))) for left in lefts]
    left, share = seen[-1][0], seen[-1][1].value
    learnt = fitted(first, seen[:-1], share, np.ones(len(KINDS)))
    assert abs(learnt.of(left) - share) < 0.5 * abs(first.of(left) - share)


def test_a_noisy_measurement_counts_for_less():
    whole = dict.fromkeys(KINDS, 1e6) | {"fixed": 1.0}
    first, half = assumed(whole, RATES["latency"]), np.full(len(KINDS), 0.5)
    sure, noisy = Span(0.5, 0.499, 0.501), Span(0.37, 0.30, 0.48)
    every = np.ones(len(KINDS))
    both = fitted(first, [(half, sure), (half, noisy)], 0.5, every)
    assert both.of(half) == pytest.approx(0.5, rel=0.02)
    assert fitted(first, [(half, noisy)], 0.5, every).of(half) == pytest.approx(0.37, rel=0.05)


def test_kinds_of_work_that_a_network_lacks_explain_nothing():
    work = dict.fromkeys(KINDS, 0.0) | {"dense": 1e6, "moved": 1e5, "fixed": 1.0}
    there = np.array([float(amount > 0) for amount in work.values()])
    left = there * 0.5
    found = fitted(assumed(work, RATES["latency"]), [(left, Span.exact(0.3))], 0.3, there)
    assert not found.shares[there == 0].any()
    assert found.of(left) == pytest.approx(0.3, rel=0.02)


def test_a_search_aims_lower_after_rounds_that_were_over():
    coupling = surgeon.trace(net(), X).coupling
    search = Search({"latency": 0.5}, Work(coupling, ANY), {"latency": 1.0})
    aims = [search.aims().of["latency"].share]
    over = {"latency": Span(0.51, 0.50, 0.52)}
    for _ in range(4):
        search.learn(coupling.removed(coupling.group("0").atoms[:32]), over)
        aims.append(search.aims().of["latency"].share)
    assert aims[0] == aims[1] == aims[2] and aims[4] < aims[2]
    assert not search.meets(over) and search.meets({"latency": Span(0.49, 0.48, 0.499)})


# --- the rounds --------------------------------------------------------------------------------


class Clock:
    """A target on which latency is what a test says of the network's multiply-adds."""

    def __init__(self, latency, noise: float = 0.004) -> None:
        self.latency, self.noise, self.models = latency, noise, []
        self.again, self.slower = 0, lambda reading: reading
        self.modules: dict[str, float] = {}

    def __call__(self, model: nn.Module, inputs: Inputs, *_: object) -> Clock:
        self.base, self.inputs = model, inputs
        return self

    def _macs(self, model: nn.Module) -> float:
        from surgeon.measure.count import flops

        return float(flops(model, self.inputs).macs)

    def _params(self, model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    def original(self, quantities) -> dict[str, float]:
        return {"latency": 0.01, "size": 4.0 * self._params(self.base), "memory": 1e6}

    def read(self, slim: nn.Module, quantities) -> Reading:
        self.models.append(slim)
        share = self.latency(self._macs(slim) / self._macs(self.base))
        span = Span(share, share * (1 - self.noise), share * (1 + self.noise))
        size = Span.exact(self._params(slim) / self._params(self.base))
        shares = {"latency": span, "size": size, "memory": span}
        told = {k: shares[k] for k in ("latency", *quantities)}
        return Reading(told, told, _Nothing())

    def confirmed(self, reading: Reading, quantities) -> Reading:
        self.again += 1
        return self.slower(reading)


class Modules(Clock):
    """A target that tells how long each module takes; of some, a part stays whatever is cut."""

    def __init__(self, stays: dict[str, float], told: bool) -> None:
        super().__init__(self.shares_of, noise=0.002)
        self.stays, self.told = stays, told

    def original(self, quantities) -> dict[str, float]:
        if self.told:
            sizes = {n: m.weight.numel() for n, m in self.base.named_modules() if is_layer(m)}
            self.modules = {n: size / sum(sizes.values()) for n, size in sizes.items()}
        return super().original(quantities)

    def times(self, slim: nn.Module) -> dict[str, float]:
        sizes = {n: m.weight.numel() for n, m in self.base.named_modules() if is_layer(m)}
        left = {n: slim.get_submodule(n).weight.numel() / size for n, size in sizes.items()}
        stays = {n: self.stays.get(n, 0.0) for n in left}
        return {n: stays[n] + (1 - stays[n]) * of for n, of in left.items()}

    def shares_of(self, _: float) -> float:
        sizes = {n: m.weight.numel() for n, m in self.base.named_modules() if is_layer(m)}
        times = self.times(self.models[-1])
        return sum(times[n] * size for n, size in sizes.items()) / sum(sizes.values())

    def read(self, slim: nn.Module, quantities) -> Reading:
        reading = super().read(slim, quantities)
        return replace(reading, times=self.times(slim)) if self.told else reading


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


class _Nothing:
    timings: ClassVar = {"before": None, "after": None}


@pytest.fixture
def timed_by(monkeypatch):
    def put(clock: Clock, grid: Grid = Grid(1, 1)) -> Clock:  # noqa: B008
        monkeypatch.setattr(limited, "Stand", clock)
        monkeypatch.setattr(asking, "probed", lambda _target: Widths(dict.fromkeys(RATES_OF, grid)))
        monkeypatch.setattr(BeforeAfter, "with_speed", lambda self, _speed: self)
        return clock

    return put


@pytest.mark.parametrize("limit", [0.9, 0.7, 0.5, 0.31])
@pytest.mark.parametrize("power", [1.0, 1.3, 0.7])
def test_the_limit_is_met_and_used(timed_by, limit: float, power: float):
    clock = timed_by(Clock(lambda share: share**power))
    done = surgeon.shrink(net(), X, max_latency=f"{limit}x")
    share = done.limited.best.reading.shares["latency"]
    assert share.high <= limit and share.value >= CLOSE * limit
    assert len(clock.models) <= limited.ROUNDS and done.check is not None
    assert done.report["limited"]["reached"]["met"]
    assert done.plan.request["max_latency"] == f"{limit}x"


def test_where_modules_times_are_told_the_limit_is_met_sooner_and_what_saves_little_is_kept(
    timed_by,
):
    """Three fifths of the last two convolutions' time stay, whatever is cut of them."""
    stays = {"4": 0.6, "6": 0.6}
    found = {}
    for told in (True, False):
        clock = timed_by(Modules(stays, told))
        done = surgeon.shrink(net(), X, max_latency="0.6x")
        kept = {n: done.model.get_submodule(n).out_channels for n in ("0", "2", "4", "6")}
        assert done.limited.best.met
        found[told] = len(clock.models), kept["6"]
    assert found[True][0] <= 3 and found[True][0] <= found[False][0]
    assert found[True][1] > found[False][1]


def test_what_a_module_took_says_what_its_next_cut_is_worth():
    names, whole = ("a", "b", "c"), np.ones(3)
    paces = Paces(names, np.array([0.5, 0.3, 0.2]))
    assert paces.times(whole) == pytest.approx(whole)
    assert paces.times(np.array([0.5, 0.25, 0.0])) == pytest.approx([0.5, 0.25, 0.0])
    learnt = paces.learnt(np.array([0.5, 0.25, 1.0]), np.array([0.7, 0.25, 1.0]))
    assert learnt.times(np.array([0.5, 0.25, 1.0])) == pytest.approx([0.7, 0.25, 1.0])
    # between what was seen on a line; below it towards the part that stays: 0.4 of a, nothing of b
    assert learnt.times(np.array([0.75, 0.625, 1.0])) == pytest.approx([0.85, 0.625, 1.0])
    assert learnt.times(np.array([0.25, 0.125, 1.0])) == pytest.approx([0.55, 0.125, 1.0])
    # c was not cut: of it stays what stays of the others, by their time
    stays = (0.5 * 0.4 + 0.3 * 0.0) / 0.8
    assert learnt.times(np.array([1.0, 1.0, 0.5]))[2] == pytest.approx(stays + (1 - stays) * 0.5)
    unknown = paces.learnt(np.full(3, 0.5), np.array([np.nan, 0.5, 0.6]))
    assert np.isfinite(unknown.times(np.full(3, 0.3))).all()


def test_a_deeper_cut_is_never_predicted_to_take_longer():
    paces = Paces(("a",), np.ones(1)).learnt(np.array([0.3]), np.array([0.9]))
    paces = paces.learnt(np.array([0.6]), np.array([0.7]))  # a noisy pair
    times = [paces.times(np.array([left]))[0] for left in np.linspace(0, 1, 11)]
    assert times == sorted(times) and times[-1] == 1.0
    assert times[3] == times[6] == pytest.approx(0.8)  # neither of the two is believed alone


def test_modules_work_is_what_is_left_of_their_layers():
    coupling = surgeon.trace(net(), X).coupling
    work = Work(coupling, ANY)
    assert {"0", "2", "4", "6"} <= work.modules
    removed = coupling.removed(coupling.group("0").atoms[:32])
    assert work.modules_left(("0", "2", "4"), removed) == pytest.approx([0.5, 0.5, 1.0])
    paced = work.paced(Paces(("0", "2"), np.array([0.2, 0.6])))
    timed = KINDS.index("timed")
    assert paced.whole[timed] == pytest.approx(0.8) and paced.after(removed)[
        timed
    ] == pytest.approx(0.4)
    assert work.whole[timed] == 0  # the one without paces is as it was


def test_what_is_not_confirmed_is_not_met(timed_by):
    """A first reading that was lucky: the second process says 2 % more."""
    clock = timed_by(Clock(lambda share: share))
    worse = []

    def slower(reading: Reading) -> Reading:
        if worse:
            return reading
        worse.append(reading)
        span = reading.shares["latency"]
        told = {"latency": Span(span.value * 1.02, span.low * 1.02, span.high * 1.02)}
        return Reading(told, told, reading.comparison, reading.files)

    clock.slower = slower
    done = surgeon.shrink(net(), X, max_latency="0.5x")
    lucky = next(r for r in done.limited.rounds if r.reading.comparison is worse[0].comparison)
    assert not lucky.met and clock.again >= 2
    assert done.limited.best is not lucky and done.limited.best.met


def test_on_a_noisy_target_the_last_round_is_safe_and_nothing_is_cut_to_the_bone(timed_by):
    clock = timed_by(Clock(lambda share: share, noise=0.05))
    done = surgeon.shrink(net(), X, max_latency="0.5x")
    share = done.limited.best.reading.shares["latency"]
    assert share.high <= 0.5 and share.value > 0.4 and len(clock.models) <= limited.ROUNDS


def test_an_absolute_limit_and_a_size(timed_by):
    timed_by(Clock(lambda share: share))
    done = surgeon.shrink(net(), X, max_latency="8ms", max_size="180kB")
    shares = done.limited.best.reading.shares
    most = 180e3 / (4 * sum(p.numel() for p in net().parameters()))
    assert shares["latency"].high <= 0.8 and 0.9 * most <= shares["size"].value <= most


def test_a_latency_with_steps_is_met_by_the_largest_step_below(timed_by):
    """Whole blocks of 32 alone save time: between two steps there is nothing to find."""
    clock = timed_by(Clock(lambda share: np.ceil(share * 4) / 4 - 0.01), Grid(32, 32))
    done = surgeon.shrink(net(), X, max_latency="0.6x")
    assert done.limited.best.met and len(clock.models) <= limited.ROUNDS
    assert any("of the limit is used" in note for note in done.notes)


def test_a_limit_that_is_met_already_or_out_of_reach(timed_by):
    timed_by(Clock(lambda share: 0.4 + 0.6 * share), Grid(16, 16))
    with pytest.raises(OutOfReach, match="the limits are met already"):
        surgeon.shrink(net(), X, max_latency="20ms")
    with pytest.raises(OutOfReach) as caught:
        surgeon.shrink(net(), X, max_latency="0.3x")
    assert caught.value.exit_code == 3
    assert "--max-latency 0.3x cannot be reached with ort, 1 thread" in caught.value.message
    assert "the least that was measured is 0.4" in caught.value.message
    assert "what holds it up" in caught.value.message


def test_out_of_reach_names_the_groups_that_were_kept(timed_by):
    timed_by(Clock(lambda share: share))
    with pytest.raises(OutOfReach) as caught:
        surgeon.shrink(net(), X, max_latency="0.1x", ignore=("2", "4"))
    assert "ignored (2)" in caught.value.message and "ignored (4)" in caught.value.message


@pytest.fixture
def short(monkeypatch):
    """Rounds that take a moment."""
    for name in ("_BUDGET", "_BESIDE"):
        brief = Budget(warmup_runs=2, warmup_s=0.1, min_s=0.2, max_s=1.0)
        monkeypatch.setattr(limited, name, brief)


def test_on_this_machine_with_the_real_runtime(short):
    """A network whose latency is its multiply-adds: half of the time is reached and proven."""
    torch.manual_seed(0)
    model, x = Plain(96).eval(), torch.randn(1, 3, 24, 24)
    done = surgeon.shrink(model, x, max_latency="0.6x", round_to=16)
    share = done.limited.best.reading.shares["latency"]
    assert share.high <= 0.6 and done.check is not None
    assert done.measured.after.latency.median_s < done.measured.before.latency.median_s
    assert stand.Stand  # the stand is the real one


def test_memory_and_size_are_met_on_the_real_file(short):
    model, x = Plain(96).eval(), torch.randn(1, 3, 8, 8)
    done = surgeon.shrink(model, x, max_size="0.5x", round_to=4)
    share = done.limited.best.reading.shares["size"].value
    assert 0.9 * 0.5 <= share <= 0.5
    assert done.measured.after.onnx_bytes / done.measured.before.onnx_bytes == pytest.approx(share)


def test_auto_rounds_a_plain_ratio_to_what_was_probed(monkeypatch):
    asked_of = []
    grid = Widths(dict.fromkeys(RATES_OF, Grid(24, 24)))
    monkeypatch.setattr(asking, "probed", lambda target: asked_of.append(target) or grid)
    plan = surgeon.propose(net(), X, 0.4, round_to="auto", runtime="openvino").plan
    assert {g.kept for g in plan.groups} == {48} and asked_of == [Target(runtime="openvino")]
    assert plan.request["round_to"] == "auto"
    surgeon.propose(net(), X, 0.4)
    assert len(asked_of) == 1
