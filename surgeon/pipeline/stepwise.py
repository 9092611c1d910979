"""Several cuts of one network, trained between and after: each is chosen on what the one before left.

A step's plan is always of the original: the scores of what is left are carried back to the original's groups, what
went before goes first, and the original is cut anew by the whole plan. So ratios and limits are the
original's, any step's network can be built again from it, and `check`, `apply` and `load` know the last plan as any other.
Where they are trained, the weights are handed on from step to step, and each step is proven on those that it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from surgeon.anew import hand_over, reinitialise, rewind
from surgeon.budget import Limit, Request, choose
from surgeon.budget.cost import Cost
from surgeon.budget.field import competing
from surgeon.check import check as run_check
from surgeon.compose import since
from surgeon.couple import Coupling
from surgeon.cut.module import cut_module
from surgeon.cut.sizes import Sizes
from surgeon.errors import BadInput, OutOfReach, SurgeonError
from surgeon.grouping import Group
from surgeon.heal.recover import recover
from surgeon.lineage import descent
from surgeon.measure.pair import before_after
from surgeon.pipeline.asked import Asked
from surgeon.pipeline.proposed import Proposal, Scored, proposed, scored
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.regime import Regime
from surgeon.pipeline.result import Cutting, Result
from surgeon.pipeline.resume import Kept, Progressed
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.traced import Traced, trace
from surgeon.plan import Plan
from surgeon.planning import make_plan, model_facts, removed_by
from surgeon.schedule import ratio_at
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorded import describe

Ids = NDArray[np.int64]


class Wanted(NamedTuple):
    """What a shrink is told beside what goes: its regime, proof and measurements or not, where the model is from."""

    regime: Regime
    check: bool
    measure: bool
    source: str | None


def shrink_in_steps(
    model: nn.Module, inputs: Inputs, asked: Asked, wanted: Wanted, run: Steps
) -> Result:
    """All steps of a regime. Raises as `shrink` does."""
    material = wanted.regime.without_fit(asked.material)
    return _Course(model, inputs, Asked(asked.request, material), wanted, run).go()


class _Course:
    """One call of `shrink_in_steps`: the network so far, and its plan."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, asked: Asked, wanted: Wanted, run: Steps
    ) -> None:
        self._model, self._inputs, self._asked, self._wanted = model, inputs, asked, wanted
        self._run, self._regime = run, wanted.regime
        self._last: Result | None = None
        self._traced: Traced = run("trace and couple", lambda: trace(model, inputs))
        self._notes: tuple[str, ...] = ()

    def go(self) -> Result:
        """Every step that is not done yet; then the whole, measured."""
        kept = Kept.of(self._regime, self._model, self._asked)
        first = self._resume(kept)
        for step in range(first, self._regime.steps + 1):
            self._run.during = f"step {step} of {self._regime.steps}: " * (self._regime.steps > 1)
            self._step(step, kept)
        self._run.during = ""
        result = self._last
        if result is None:
            raise OutOfReach("nothing is removed in any step", "ask for more")
        plan = self._final(result.plan)
        result = replace(result, plan=plan, notes=tuple(dict.fromkeys(self._notes)))
        if self._wanted.measure:
            pair = (self._model, result.model, result.inputs)
            measured = self._run("measure", lambda: before_after(*pair))
            result = replace(result, measured=measured, notes=result.notes + measured.notes)
        return replace(result, seconds=self._run.seconds)

    def _final(self, plan: Plan) -> Plan:
        request = {**self._asked.request.as_dict(), **self._regime.facts()}
        return replace(plan, request=request)

    def _resume(self, kept: Kept) -> int:
        """The first step to do; a killed run's network is built again from the original and its plan."""
        found = kept.read()
        if found is None:
            return 1
        result = self._cut(found.plan, None)
        hand_over_state(result.model, found.state)
        plan = replace(result.plan, model=found.plan.model)
        self._last = replace(result, plan=plan, history=found.history)
        self._notes += (f"went on after step {found.step}, where an earlier run ended",)
        return found.step + 1

    def _step(self, step: int, kept: Kept) -> None:
        share = ratio_at(self._regime.schedule, step, self._regime.steps)
        found = self._proposed(share)
        before = self._last
        if found is None or (before is not None and found.plan.keep == before.plan.keep):
            self._notes += (
                f"step {step} removes no whole channel: nothing was cut or tuned in it",
            )
            return
        result = self._cut(found.plan, found)
        said = Cutting(step, share, result.plan.removed, result.check and result.check.error)
        trained = (
            before if self._regime.tune is not None else None
        )  # else the original's weights are what there is
        if trained is not None:
            result, said = self._handed_over(trained, result, said)
        result = self._fitted(trained, result)
        result = self._anew(result)
        result, said = self._tuned(result, said, kept.tuning(step))
        history = (before.history if before is not None else ()) + (said,)
        self._last = replace(result, history=history)
        kept.write(Progressed(step, self._last.plan, self._last.model.state_dict(), history))

    # what goes

    def _proposed(self, share: float) -> Proposal | None:
        request = scaled(self._asked.request, share, self._traced.coupling)
        asked = Asked(request, self._asked.material)
        try:
            if self._last is None:
                done = proposed(self._traced, self._inputs, asked, self._wanted.source, self._run)
                self._notes += done.notes
                return done
            return self._run("score and plan", lambda: self._again(asked, self._last))
        except OutOfReach:
            if share == 1:
                raise
            return None

    def _again(self, asked: Asked, last: Result | None) -> Proposal:
        """The plan of a later step: scored on what is left, chosen on the original's groups."""
        assert last is not None
        coupling = self._traced.coupling
        slim = trace(last.model, last.inputs)
        kin = descent(coupling, slim.coupling, last.plan.keep)
        gone = gone_of(coupling, last.plan)

        def among(scores: Mapping[str, Any]) -> set[str]:
            known = {
                n: np.zeros(coupling.group(n).size) for n, k in kin.items() if k[0].name in scores
            }
            free = competing(coupling, known, asked.request)
            return {kin[n][0].name for n in free}

        found = scored(slim, asked.request, asked.material, among)
        whole = on_original(coupling, kin, found, gone)
        choice = choose(coupling, whole.scores, asked.request, whole.curves, gone)
        facts = model_facts(self._traced.graph, self._wanted.source, describe(self._inputs))
        plan = make_plan(coupling, choice, facts, asked.request.as_dict())
        return Proposal(self._traced, plan, choice.notes)

    # the cut, and its weights

    def _cut(self, plan: Plan, found: Proposal | None) -> Result:
        """The original cut by the whole plan, proven on the original's weights."""
        plan = replace(plan, model={k: v for k, v in plan.model.items() if k != "tuned"})
        done, traced = self._run("cut", lambda: carried_out(self._traced, self._inputs, plan))
        given = (self._model, self._inputs, traced)
        result = finished(given, done, plan, (), self._run, (self._wanted.check, False))
        self._notes += result.notes
        return replace(result, dead=found.dead if found is not None else None)

    def _handed_over(self, before: Result, result: Result, said: Cutting) -> tuple[Result, Cutting]:
        """The weights of the step before, cut; proven against the network that had them."""
        step = since(result.plan, before.plan)
        hand_over(result.model, before.model, step, self._traced.graph.state)
        if self._wanted.check:
            what = (before.model, result.model, step, before.inputs)
            proof = self._run("check", lambda: run_check(*what))
            said = replace(said, error=proof.error)
        return _marked(result, before.plan.model.get("tuned")), said

    def _fitted(self, before: Result | None, result: Result) -> Result:
        """Recovery: towards the network whose weights these are, the original's or a trained step's."""
        material = self._asked.material
        if "compensate" not in material.recover or material.data is None:
            return result
        plan, model = result.plan, self._traced.model
        if before is not None:
            plan, model = since(result.plan, before.plan), before.model
        what = (model, result.model, plan, material.data)
        done = self._run("recover", lambda: recover(*what))
        self._notes += done.notes
        return _marked(replace(result, recovery=done), done.how() if done.layers else None)

    def _anew(self, result: Result) -> Result:
        """Weights of an earlier checkpoint, or new ones, where they are asked for."""
        if self._regime.rewind is not None:
            rewind(result.model, self._model, self._regime.rewind, result.plan)
            return _marked(result, {"by": "rewound to an earlier checkpoint"})
        if not self._regime.reinit:
            return result
        donor = result.model
        if (
            result.way == "program"
        ):  # a program's modules cannot reset themselves: the original's, cut, can
            coupling = self._traced.coupling
            sizes = Sizes(coupling, removed_by(coupling, result.plan))
            donor = cut_module(self._traced.model, result.plan.keep, sizes)
        stayed = reinitialise(donor, self._asked.request.seed)
        if len(stayed) == sum(1 for _ in donor.parameters()):
            raise BadInput(
                "no module of this network has a reset_parameters: nothing can begin anew",
                "rewind to an untrained checkpoint instead (--rewind FILE)",
            )
        if stayed:
            self._notes += (f"no reset_parameters sets these, they are as cut: {_few(stayed)}",)
        if donor is not result.model:
            hand_over(result.model, donor, Plan({}), self._traced.graph.state)
        return _marked(result, {"by": "reinitialised", "seed": self._asked.request.seed})

    def _tuned(self, result: Result, said: Cutting, place: Any) -> tuple[Result, Cutting]:
        options = self._regime.tune
        if options is None:
            return result, said
        from surgeon.tune.run import tune

        teacher = self._model if self._regime.teacher == "original" else self._regime.teacher
        assert not isinstance(teacher, str)  # refused before
        options = replace(options, state=place or options.state)
        how: dict[str, Any] = {"example_inputs": result.inputs, "watch": self._regime.watch}
        done = self._run(
            "tune", lambda: tune(result.model, self._regime.train, teacher, options, **how)
        )
        self._notes += done.notes
        names = ("metric", "before", "score", "epoch")
        found = {n: getattr(done, n) for n in names}
        result = _marked(replace(result, model=done.model), found)
        return result, replace(said, **found)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" ({len(names)} parameters)" if len(names) > 4 else "")


def _marked(result: Result, how: Mapping[str, Any] | None) -> Result:
    """The plan says that weights were changed after the cut, and how last."""
    if not how:
        return result
    model = {**result.plan.model, "tuned": dict(how)}
    return replace(result, plan=replace(result.plan, model=model))


def hand_over_state(slim: nn.Module, state: Mapping[str, Any]) -> None:
    """Put a saved state into a network that was built again; SurgeonError where it is of another one."""
    try:
        slim.load_state_dict(state)
    except RuntimeError as error:
        raise SurgeonError(
            f"the state of the earlier run is of another network: {error}".splitlines()[0],
            "begin again (--restart)",
        ) from error


def scaled(request: Request, share: float, coupling: Coupling) -> Request:
    """What is asked of a step that reaches this share of the whole request."""
    if share == 1:
        return request
    whole = Cost(coupling).total(np.zeros(coupling.classes.count, bool)) if request.limits else None

    def limit(what: str) -> Limit | None:
        own = request.limits.get(what)
        if own is None or whole is None:
            return None
        full = getattr(whole, what)
        return Limit(full - (full - min(own.of(full), full)) * share, relative=False)

    return replace(
        request,
        ratio=None if request.ratio is None else request.ratio * share,
        ratio_for={glob: ratio * share for glob, ratio in request.ratio_for.items()},
        max_flops=limit("flops"),
        max_params=limit("params"),
    )


def gone_of(coupling: Coupling, plan: Plan) -> dict[str, Ids]:
    """Channels of each group that a plan removes."""
    removed = removed_by(coupling, plan)
    found = {g.name: np.flatnonzero(removed[g.atoms]) for g in coupling.groups}
    return {name: channels for name, channels in found.items() if len(channels)}


def on_original(
    coupling: Coupling,
    kin: Mapping[str, tuple[Group, Ids]],
    found: Scored,
    gone: Mapping[str, Ids],
) -> Scored:
    """What was said of the cut network's groups, said of the original's. kin: what `descent` gave. SurgeonError where
    a group cannot be followed."""
    scores: dict[str, Any] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for group in coupling.groups:
        lost = gone.get(group.name, ())
        if group.name in kin and kin[group.name][0].name in found.scores:
            own, channels = kin[group.name]
            scores[group.name] = np.zeros(group.size)
            scores[group.name][channels] = found.scores[own.name]
            for at, loss in (found.curves or {}).get(own.name, ()):
                start = [(0, 0.0)] if len(lost) else []
                curves.setdefault(group.name, start).append((at + len(lost), loss))
        elif len(lost) == group.size - 1:  # one always stays
            scores[group.name] = np.zeros(group.size)
        elif len(lost):
            raise SurgeonError(
                f"the channels of {group.name} cannot be followed into the network that is left",
                "cut it in one step, or keep it whole (--ignore)",
            )
    return Scored(scores, curves if found.curves is not None else None, found.broken)
