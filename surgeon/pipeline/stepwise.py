"""Several cuts of one network, trained between and after, or with weights that begin anew.

Where they are trained, the weights are handed on from step to step, and each step is proven on those that it had.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from surgeon.anew import hand_over, reinitialise, rewind
from surgeon.cut.module import cut_module
from surgeon.cut.sizes import Sizes
from surgeon.errors import BadInput, OutOfReach
from surgeon.pipeline.asked import Asked
from surgeon.pipeline.compared import compared
from surgeon.pipeline.regime import Regime
from surgeon.pipeline.result import Cutting, Result
from surgeon.pipeline.resume import Kept, Progressed
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.successive import Successive, marked
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.schedule import ratio_at
from surgeon.trace.inputs import Inputs


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
    return _Course(model, inputs, asked._replace(material=material), wanted, run).go()


class _Course:
    """One call of `shrink_in_steps`: the network so far, and its plan."""

    def __init__(
        self, model: nn.Module, inputs: Inputs, asked: Asked, wanted: Wanted, run: Steps
    ) -> None:
        self._model, self._asked, self._wanted = model, asked, wanted
        self._run, self._regime = run, wanted.regime
        self._last: Result | None = None
        self._cuts = Successive(model, inputs, asked, (wanted.source, wanted.check), run)
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
        result = replace(
            result, plan=plan, notes=tuple(dict.fromkeys(self._cuts.notes + self._notes))
        )
        if self._wanted.measure:
            pair = (self._model, result.model, result.plan, result.inputs)
            measured, said = self._run("measure", lambda: compared(*pair))
            result = replace(result, measured=measured, notes=result.notes + said)
        return replace(result, seconds=self._run.seconds)

    def _final(self, plan: Plan) -> Plan:
        asked = {**self._asked.request.as_dict(), **self._asked.material.facts()}
        request = {**plan.request, **asked, **self._regime.facts()}
        return replace(plan, request=request)

    def _resume(self, kept: Kept) -> int:
        """The first step to do; a killed run's network is built again from the original and its plan."""
        found = kept.read()
        if found is None:
            return 1
        result = self._cuts.rebuilt(found.plan, found.state)
        self._last = replace(result, history=found.history)
        self._notes += (f"went on after step {found.step}, where an earlier run ended",)
        return found.step + 1

    def _step(self, step: int, kept: Kept) -> None:
        share = ratio_at(self._regime.schedule, step, self._regime.steps)
        before = self._last
        done = self._cuts.step(share, before)
        if done is None:
            self._notes += (
                f"step {step} removes no whole channel: nothing was cut or tuned in it",
            )
            return
        result = replace(done[1], dead=done[0].dead)
        error = result.check.error if result.check is not None else None
        # where nothing is trained, the original's weights are what there is
        trained = before if self._regime.tune is not None else None
        if trained is not None:
            result, error = self._cuts.handed_over(trained, result)
        said = Cutting(step, share, result.plan.removed, error)
        result = self._cuts.fitted(trained, result)
        result = self._anew(result)
        result, said = self._tuned(result, said, kept.tuning(step))
        history = (before.history if before is not None else ()) + (said,)
        self._last = replace(result, history=history)
        kept.write(Progressed(step, self._last.plan, self._last.model.state_dict(), history))

    def _anew(self, result: Result) -> Result:
        """Weights of an earlier checkpoint, or new ones, where they are asked for."""
        if self._regime.rewind is not None:
            rewind(result.model, self._model, self._regime.rewind, result.plan)
            return marked(result, {"by": "rewound to an earlier checkpoint"})
        if not self._regime.reinit:
            return result
        donor = result.model
        # a program's modules cannot reset themselves: the original's, cut, can
        if result.way == "program":
            coupling = self._cuts.traced.coupling
            sizes = Sizes(coupling, removed_by(coupling, result.plan))
            donor = cut_module(self._cuts.traced.model, result.plan.keep, sizes)
        stayed = reinitialise(donor, self._asked.request.seed)
        if len(stayed) == sum(1 for _ in donor.parameters()):
            raise BadInput(
                "no module of this network has a reset_parameters: nothing can begin anew",
                "rewind to an untrained checkpoint instead (--rewind FILE)",
            )
        if stayed:
            self._notes += (f"no reset_parameters sets these, they are as cut: {_few(stayed)}",)
        if donor is not result.model:
            hand_over(result.model, donor, Plan({}), self._cuts.traced.graph.state)
        return marked(result, {"by": "reinitialised", "seed": self._asked.request.seed})

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
        result = marked(replace(result, model=done.model), found)
        return result, replace(said, **found)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" ({len(names)} parameters)" if len(names) > 4 else "")
