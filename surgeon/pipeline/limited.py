"""Limits that only a measurement tells: plan, cut, measure beside the original, correct, until they are met."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn

from surgeon.budget import choose
from surgeon.budget.align import Widths
from surgeon.budget.choose import Choice, most
from surgeon.budget.hold import holders
from surgeon.budget.meter import Aims
from surgeon.budget.search import CLOSE, Search
from surgeon.budget.work import Work
from surgeon.cut import Cut
from surgeon.errors import OutOfReach
from surgeon.measure.latency import Budget
from surgeon.measure.pair import counted, single
from surgeon.measure.stand import Reading, Stand
from surgeon.measure.target import Target
from surgeon.measure.widths import known
from surgeon.pipeline.asked import Asked
from surgeon.pipeline.followed import followed
from surgeon.pipeline.proposed import Scored, drawn, judged
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.recovered import recovered
from surgeon.pipeline.result import Result
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.traced import Traced, trace
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.trace.inputs import Inputs

ROUNDS = 6
_BUDGET = Budget(max_s=15.0)  # of each network in a round: what is met is measured twice
_BESIDE = Budget(min_s=0.5, max_s=3.0)  # where latency is told, and not limited
_LAST = 0.93  # of the aim, in the last round, where none before it met the limit
_TRIES = 12  # aims until a plan comes out that was not measured


@dataclass(frozen=True)
class Round:
    """One cut that was measured. `aims`: shares of the original's that were aimed at; `met`: every limit was;
    `fill`: how much of the tightest limit it uses."""

    plan: Plan
    aims: Mapping[str, float]
    reading: Reading
    met: bool
    fill: float
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {"aims": dict(self.aims), "measured": self.reading.as_dict(), "met": self.met}


@dataclass(frozen=True)
class Limited:
    """How limits were met. `limits`: as shares of the original's; `best` is what was delivered."""

    target: Target
    limits: Mapping[str, float]
    rounds: tuple[Round, ...]
    best: Round

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "target": vars(self.target),
            "limits": dict(self.limits),
            "reached": self.best.as_dict(),
            "rounds": [r.as_dict() for r in self.rounds],
        }


def shrink_to_limits(
    model: nn.Module,
    inputs: Inputs,
    asked: Asked,
    run: Steps,
    wanted: tuple[bool, str | None] = (True, None),
) -> Result:
    """`shrink` for limits on latency, memory and size; wanted: whether it is proven, and where the model came from.

    OutOfReach where they cannot be met: with the least that was measured, and the groups that hold it up.
    """

    def tried(traced: Traced) -> Result:
        return _to_limits((model, inputs, traced), asked, run, wanted)

    return followed(run("trace and couple", lambda: trace(model, inputs)), tried, asked.request)


def _to_limits(
    given: tuple[nn.Module, Inputs, Traced],
    asked: Asked,
    run: Steps,
    wanted: tuple[bool, str | None],
) -> Result:
    model, inputs, traced = given
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        rounds = _Rounds((traced, inputs, wanted[1]), asked, Path(folder), run)
        best, done = rounds.searched()
        result = finished(given, done, best.plan, best.notes, run, (wanted[0], False))
        if result.model is not done.model:  # the oracle had it cut as a program
            best = rounds.again(best, result)
        speed = best.reading.comparison
    if "compensate" in asked.material.recover:
        result = run("recover", lambda: recovered(result, traced, asked.material))
    counts = counted(model, result.model, result.inputs)
    measured = counts.with_speed(speed)
    limited = Limited(asked.target, rounds.search.limits, tuple(rounds.all), best)
    notes = result.notes + _said(limited)
    return replace(result, measured=measured, limited=limited, notes=notes)


class _Rounds:
    """Cuts of one network, each measured; none is measured twice."""

    def __init__(
        self, given: tuple[Traced, Inputs, str | None], asked: Asked, folder: Path, run: Steps
    ) -> None:
        self._traced, self._inputs, self._source = given
        self._run, self.all = run, list[Round]()
        target, request = asked.target, asked.request
        self._asked = asked
        widths = request.round_to if isinstance(request.round_to, Widths) else known(target)
        one = single(self._inputs)
        budget = _BUDGET if request.max_latency else _BESIDE
        self._stand = run(
            "export the original", lambda: Stand(self._traced.model, one, target, folder, budget)
        )
        amounts = run("time the original", lambda: self._stand.original(list(request.measured)))
        limits = {what: limit.share(amounts[what]) for what, limit in request.measured.items()}
        if not request.limits:
            _refuse_met(limits)
        work = Work(self._traced.coupling, widths)
        self.search = Search(limits, work, amounts, self._stand.modules)
        self._found: Scored = run("score", lambda: judged(self._traced, asked))
        self._best: tuple[Round, Cut] | None = None  # the largest network that meets every limit

    def searched(self) -> tuple[Round, Cut]:
        """Rounds until one is close to the limits, or there are no more: the best of them."""
        if self._asked.request.limits:
            # raises where what is counted cannot be met: then nothing is measured
            self._chosen(None)
        for _ in range(ROUNDS):
            if self._best is None and len(self.all) == ROUNDS - 1:
                self.search.safer(_LAST)
            try:
                plan = self._next()
            except OutOfReach:  # by what is predicted: the most that may go tells more
                plan = self._floor()
            if plan is None:
                break
            last = self._measured(*plan)
            if last.met and last.fill >= CLOSE:
                break
        if self._best is None:
            raise self._unreached()
        return self._best

    def again(self, best: Round, result: Result) -> Round:
        """The best round, measured with what was delivered in place of it."""
        limits = list(self.search.limits)
        reading = self._run("measure", lambda: self._stand.read(result.model, limits))
        met, fill = self.search.meets(reading.shares), self.search.fill(reading.shares)
        return replace(best, reading=reading, met=met, fill=fill)

    def _next(self) -> tuple[Plan, tuple[str, ...]] | None:
        """A plan that was not measured yet, and its notes; None where there is none between those that were."""
        for _ in range(_TRIES):
            plan, notes = self._drawn(self._chosen(self.search.aims()))
            same = next((r for r in self.all if r.plan.keep == plan.keep), None)
            if same is None:
                return plan, notes
            self.search.nudge(up=same.met)
        return None

    def _chosen(self, aims: Aims | None) -> Choice:
        found, coupling = self._found, self._traced.coupling
        return choose(coupling, found.scores, self._asked.request, found.curves, aims=aims)

    def _drawn(self, choice: Choice) -> tuple[Plan, tuple[str, ...]]:
        chosen = choice, self._found.broken
        proposal = drawn(self._traced, chosen, self._asked, self._source, self._inputs)
        return proposal.plan, proposal.notes

    def _measured(self, plan: Plan, notes: tuple[str, ...]) -> Round:
        search, limits = self.search, list(self.search.limits)
        aims = {what: aim.share for what, aim in search.aims().of.items()}
        number = f"round {len(self.all) + 1}"
        done, _ = self._run(f"{number}: cut", lambda: carried_out(self._traced, self._inputs, plan))
        reading = self._run(f"{number}: measure", lambda: self._stand.read(done.model, limits))
        if "latency" in limits and search.meets(reading.shares):
            reading = self._run(
                f"{number}: confirm", lambda: self._stand.confirmed(reading, limits)
            )
        met, fill = search.meets(reading.shares), search.fill(reading.shares)
        found = Round(plan, aims, reading, met, fill, notes)
        removed = removed_by(self._traced.coupling, plan)
        search.learn(removed, reading.shares, reading.times)
        self.all.append(found)
        if met and (self._best is None or fill > self._best[0].fill):
            self._best = found, done
        return found

    def _floor(self) -> tuple[Plan, tuple[str, ...]] | None:
        """The plan by which the most goes, and its notes; None where it was measured."""
        found = self._found
        plan, notes = self._drawn(most(self._traced.coupling, found.scores, self._asked.request))
        known = any(r.plan.keep == plan.keep for r in self.all)
        return None if known else (plan, notes)

    def _unreached(self) -> OutOfReach:
        """With the least that was measured, and what holds it up."""
        if (floor := self._floor()) is not None:
            self._measured(*floor)
        least = min(self.all, key=lambda r: r.fill)
        what = max(
            self.search.limits, key=lambda w: least.reading.shares[w].value / self.search.limits[w]
        )
        share, limit = least.reading.shares[what], self._asked.request.measured[what]
        floor = removed_by(self._traced.coupling, least.plan)
        left = {x.name: x.why for x in least.plan.left}
        mix = self.search.aims().of[what].mix
        plain = self.search.work.on(Widths.multiples(1))  # within a block, too
        held = holders(self._traced.coupling, floor, (plain, mix), left)
        how = "was not met in six rounds" if least.met else "cannot be reached"
        why = f"; what holds it up: {', '.join(map(str, held[:3]))}" if held else ""
        hint = (
            "run it again, or ask for a little more or less: the cuts near this limit came out above it"
            if least.met
            else f"ask for {ceil(100 * share.high) / 100:.2f}x or more, or let more groups go (surgeon inspect)"
        )
        return OutOfReach(
            f"--max-{what} {limit} {how} with {self._asked.target}: the least that was measured is "
            f"{share.value:.3f}x ({share.low:.3f} to {share.high:.3f}){why}",
            hint,
        )


def _refuse_met(limits: Mapping[str, float]) -> None:
    """Raise OutOfReach where the original meets every limit."""
    if all(share >= 1 for share in limits.values()):
        said = ", ".join(f"{what} {1 / share:.2f} of its limit" for what, share in limits.items())
        raise OutOfReach(f"nothing is removed: the limits are met already ({said})", "ask for more")


def _said(limited: Limited) -> tuple[str, ...]:
    """What there is to say of a limit that was met by far, or that is no longer."""
    best = limited.best
    if not best.met:
        return ("the limit was met by the module, and is not by the program that was delivered",)
    if best.fill < CLOSE:
        return (
            f"{best.fill:.1%} of the limit is used: there was no cut between this one and those above it",
        )
    return ()
