"""One network cut again and again: what goes next, the cut, and the weights that the last one had.

A step's plan is always of the original: the scores of what is left are carried back to the original's groups, what
went before goes first, and the original is cut anew by the whole plan. So ratios and limits are the
original's, any step's network can be built again from it, and `check`, `apply` and `load` know the last plan as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from surgeon.anew import hand_over
from surgeon.budget import Limit, Request, choose
from surgeon.budget.cost import Cost
from surgeon.budget.field import competing
from surgeon.check import check as run_check
from surgeon.compose import since
from surgeon.couple import Coupling
from surgeon.errors import OutOfReach, SurgeonError
from surgeon.grouping import Group
from surgeon.lineage import descent
from surgeon.pipeline.asked import Asked
from surgeon.pipeline.followed import followed
from surgeon.pipeline.proposed import Proposal, Scored, proposed, scored
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.recovered import recovered
from surgeon.pipeline.result import Result
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.traced import Traced, trace
from surgeon.plan import Plan
from surgeon.planning import make_plan, model_facts, removed_by
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorded import describe

Ids = NDArray[np.int64]


class Successive:
    """The original, what is asked of it in the end, and what was said on the way (`notes`)."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        asked: Asked,
        how: tuple[str | None, bool],
        run: Steps,
    ) -> None:
        """how: where the model is from, and whether every cut is proven."""
        self.model, self._inputs, self._asked, self._run = model, inputs, asked, run
        self._source, self._check = how
        self.traced: Traced = run("trace and couple", lambda: trace(model, inputs))
        self.notes: tuple[str, ...] = ()

    def proposal(self, share: float, last: Result | None) -> Proposal | None:
        """The whole plan once this share of what was asked is reached, chosen on the last cut network; None where nothing more
        goes. Raises OutOfReach as `shrink` does, once the whole is asked for and nothing went before."""
        request = scaled(self._asked.request, share, self.traced.coupling)
        asked = self._asked._replace(request=request)
        try:
            if last is None:
                return proposed(self.traced, self._inputs, asked, self._source, self._run)
            found = self._run("score and plan", lambda: self._again(asked, last))
        except OutOfReach:
            if share == 1:
                raise
            return None
        return None if found.plan.keep == last.plan.keep else found

    def _again(self, asked: Asked, last: Result) -> Proposal:
        """The plan of a later step: scored on what is left, chosen on the original's groups."""
        coupling = self.traced.coupling
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
        facts = model_facts(self.traced.graph, self._source, describe(self._inputs))
        plan = make_plan(coupling, choice, facts, asked.request.as_dict())
        return Proposal(self.traced, plan, choice.notes)

    def step(
        self, share: float, last: Result | None, known: Proposal | None = None
    ) -> tuple[Proposal, Result] | None:
        """A proposal and its cut; where neither surgery follows, what is cut there stays from now on. known: the proposal,
        where it was made before. None, and raises, as `proposal` and `cut` do."""
        said, first = len(self.traced.notes), [known] if known is not None else []
        before = self.traced, self.notes

        def tried(traced: Traced) -> tuple[Proposal, Result] | None:
            self.traced = traced
            found = first.pop() if first else self.proposal(share, last)
            return None if found is None else (found, self.cut(found.plan))

        gone = gone_of(self.traced.coupling, last.plan) if last is not None else {}
        try:
            done = followed(self.traced, tried, self._asked.request, gone)
        except BaseException:
            self.traced, self.notes = before
            raise
        if done is not None:
            self.notes += done[0].notes if last is None else self.traced.notes[said:]
        return done

    def cut(self, plan: Plan) -> Result:
        """The original cut by the whole plan, with its weights, and proven on them."""
        plan = plan.unmarked()
        done, traced = self._run("cut", lambda: carried_out(self.traced, self._inputs, plan))
        given = (self.model, self._inputs, traced)
        result = finished(given, done, plan, (), self._run, (self._check, False))
        self.notes += result.notes
        return result

    def handed_over(self, before: Result, result: Result) -> tuple[Result, float | None]:
        """With the weights of the step before, cut; proven against the network that had them: the check's error."""
        step = since(result.plan, before.plan)
        hand_over(result.model, before.model, step, self.traced.graph.state)
        error = None
        if self._check:
            what = (before.model, result.model, step, before.inputs)
            error = self._run("check", lambda: run_check(*what)).error
        return marked(result, before.plan.model.get("tuned")), error

    def rebuilt(self, plan: Plan, state: Mapping[str, Any]) -> Result:
        """The cut network of a plan and a state that were kept."""
        result = self.cut(plan)
        hand_over_state(result.model, state)
        return replace(result, plan=replace(result.plan, model=plan.model))

    def fitted(self, before: Result | None, result: Result) -> Result:
        """Recovery: towards the network whose weights these are, the original's or a trained step's."""
        material = self._asked.material
        if "compensate" not in material.recover or material.data is None:
            return result
        own = self.traced, result
        if before is not None:
            step = since(result.plan, before.plan)
            own = replace(self.traced, model=before.model), replace(result, plan=step)
        done = self._run("recover", lambda: recovered(own[1], own[0], material))
        self.notes += done.recovery.notes if done.recovery is not None else ()
        result = replace(result, recovery=done.recovery)
        return marked(result, done.plan.model.get("tuned"))


def marked(result: Result, how: Mapping[str, Any] | None) -> Result:
    """The plan says that weights were changed after the cut, and how last."""
    return replace(result, plan=result.plan.marked(how))


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
