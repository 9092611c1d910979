"""`Pruner`: cuts in a user's own training loop; the optimizer carries on with what stays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from surgeon.anew import hand_over
from surgeon.budget.field import competing
from surgeon.carry import carry
from surgeon.compose import since
from surgeon.errors import BadInput
from surgeon.lineage import descent
from surgeon.loop.penalties import Penalty, known
from surgeon.loop.pressure import Pressure
from surgeon.pipeline.asked import Options, asked
from surgeon.pipeline.proposed import Proposal
from surgeon.pipeline.result import Cutting, Result
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.successive import Successive, marked
from surgeon.pipeline.traced import trace
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.schedule import ratio_at
from surgeon.trace.folding import own_copy, ready
from surgeon.trace.hooks import belong
from surgeon.trace.inputs import Inputs
from surgeon.trace.rebound import rebind
from surgeon.trace.wrappers import unwrapped


class Pruner:
    """A network that is cut while it is trained.

    `model` is the network as it is now: the caller's own object until the first cut, then a new one after each, since smaller
    layers make another network (a program, where its code cannot follow). The caller's own is never cut: write
    `pruner.model` in the loop, or take what `step` returns, and wrap that anew (DDP, torch.compile). For trainers that
    hold an object of their own, in_place: the caller's object becomes the smaller network at each cut (a copy of it is kept); a cut
    that only a program can run is refused.

    ratio and options are those of `shrink`: what is reached after `steps` calls of `step`, by `schedule`. penalty: what
    `regularize` adds to gradients: 'group-lasso', 'slimming', 'growing', or f(surgeon.loop.Pressed) -> a number; times strength.
    check: every cut is proven on the weights that it has. Raises BadInput as `shrink` does.

    >>> pruner = Pruner(net, x, ratio=0.5, steps=5)  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913  the public call: what is cut when, and what presses on it
        self,
        model: nn.Module,
        example_inputs: Any,
        ratio: float | None = None,
        *,
        steps: int = 1,
        schedule: str = "linear",
        penalty: str | Penalty = "group-lasso",
        strength: float = 1e-4,
        check: bool = True,
        in_place: bool = False,
        **options: Unpack[Options],
    ) -> None:
        ratio_at(schedule, 0, steps)  # refuses what is none
        self._penalty, self._strength = known(penalty), strength
        self._steps, self._schedule, self._taken = steps, schedule, 0
        self._asked = asked(ratio, options)
        if self._asked.request.dead:
            raise BadInput("what is dead goes without training", "surgeon.shrink(..., dead=True)")
        if self._asked.request.threshold is not None and steps > 1:
            raise BadInput("what is below a threshold goes at once", "leave out steps")
        own, inputs = unwrapped(model), Inputs.of(example_inputs)
        self._in_place = in_place
        original = own_copy(own, {}) if in_place else own
        self._cuts = Successive(original, inputs, self._asked, (None, check), Steps(None))
        self._last = Result(own, Plan({}), "module", inputs)
        self._step_plan = Plan({})
        self._pressure: Pressure | None = None
        self._next: Proposal | None = None
        self.history: tuple[Cutting, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The network as it is now."""
        return self._last.model

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self._taken >= self._steps

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the cuts."""
        return tuple(dict.fromkeys(self._cuts.notes))

    def regularize(self) -> Tensor:
        """Add the penalty's gradients to those of the loss: after backward (and unscaling), before the optimizer's step. Gives the
        penalty. Nothing once all steps were taken."""
        if self.done:
            return torch.zeros(())
        if self._pressure is None:
            self._pressure = self._pressed()
        return self._pressure.add(self._strength)

    def step(self, *optimizers: Optimizer) -> nn.Module:
        """Cut what the schedule says, and give the smaller network, in the mode (train or eval) that the last one was in.

        optimizers: those that hold its weights; they, and schedulers that hold them, go on with what stays. Gradients are gone.
        Nothing happens once all steps were taken, or where the schedule asks for no whole channel. Raises CheckFailed
        where the cut is not proven, BadInput where an optimizer cannot go on; then the network is as it was.
        """
        if self.done:
            return self.model
        share = self._share()
        before = self._now()
        done = self._cuts.step(share, before, self._next)
        if done is None:
            self._taken, self._next = self._taken + 1, None
            return self.model
        result = done[1]
        if self._in_place and result.way == "program":
            raise BadInput(
                f"only a program can run what is left, and no module becomes one in place: {result.why}",
                "without in_place, pruner.model is that program; or --ignore the layers that it names",
            )
        result, error = self._cuts.handed_over(before, result)
        result = self._cuts.fitted(before, result)
        _as_before(result.model, self.model)
        step = since(result.plan, before.plan)
        for optimizer in optimizers:
            carry(optimizer, self.model, result.model, step)
        if self._in_place:
            result = replace(result, model=_become(self.model, result.model))
        said = Cutting(self._taken + 1, share, result.plan.removed, error)
        self._taken, self._last, self._step_plan = self._taken + 1, result, step
        self._next, self._pressure = None, None
        self.history += (said,)
        return self.model

    def follow(self, other: nn.Module) -> nn.Module:
        """Another copy of the network (an average of its weights), as it was before the last cut -> cut as the network was."""
        if not self.history:
            raise BadInput("there was no cut yet that another network could follow", "call step()")
        new, other = own_copy(self.model, {}), unwrapped(other)
        try:
            hand_over(new, ready(other).model, self._step_plan, self._cuts.traced.graph.state)
        except (RuntimeError, IndexError) as error:
            raise BadInput(
                f"this is no copy of the network before the last cut: {error}".splitlines()[0],
                "let it follow after each step",
            ) from error
        _as_before(new, other)
        return new

    @property
    def result(self) -> Result:
        """What `shrink` gives: for `surgeon.save`, and a plan that `surgeon.check` proves the structure of. BadInput before the first cut."""
        if not self.history:
            raise BadInput("nothing was cut yet", "call step()")
        about = {"steps": self._steps, "schedule": self._schedule}
        last = marked(self._last, {"by": "a loop of the user's own", "cuts": len(self.history)})
        plan = replace(last.plan, request={**self._asked.request.as_dict(), **about})
        slim = own_copy(self.model, {}).eval()
        return replace(last, model=slim, plan=plan, history=self.history, notes=self.notes)

    def state_dict(self) -> dict[str, Any]:
        """Where the pruner is, with the network's weights: tensors and strings."""
        return {
            "taken": self._taken,
            "plan": json.dumps(self._last.plan.to_json()) if self.history else None,
            "history": json.dumps([vars(c) for c in self.history]),
            "model": self.model.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another pruner of the same network and options was; make the optimizer of `model`'s parameters afterwards."""
        if self._taken:
            raise BadInput("this pruner has begun", "load into a fresh one")
        if state["plan"] is None:
            self.model.load_state_dict(state["model"])
        else:
            before = self.model
            self._last = self._cuts.rebuilt(
                Plan.from_json(json.loads(state["plan"])), state["model"]
            )
            _as_before(self.model, before)
            if self._in_place:
                self._last = replace(self._last, model=_become(before, self.model))
        self._taken = state["taken"]
        self.history = tuple(Cutting(**c) for c in json.loads(state["history"]))

    def _share(self) -> float:
        return ratio_at(self._schedule, self._taken + 1, self._steps)

    def _now(self) -> Result:
        """The last result with the weights of now: a copy where parametrizations must be plain."""
        return replace(self._last, model=ready(self.model).model)

    def _pressed(self) -> Pressure:
        """The penalty on the groups that may still be cut, and which channels go next, where it asks for that."""
        whole, keep = self._cuts.traced.coupling, self._last.plan.keep
        slim = trace(self.model, self._last.inputs).coupling
        kin = descent(whole, slim, keep)
        if self._penalty.chooses:
            self._next = self._cuts.proposal(self._share(), self._now())
        goes = removed_by(whole, self._next.plan) if self._next is not None else None
        known = {name: np.zeros(whole.group(name).size) for name in kin}
        chosen: dict[str, Tensor] = {}
        for name in competing(whole, known, self._asked.request):
            own, channels = kin[name]
            next_ones = np.zeros(own.size, bool)
            if goes is not None:
                next_ones = goes[whole.group(name).atoms][channels]
            chosen[own.name] = torch.from_numpy(next_ones)
        return Pressure(self.model, slim, self._penalty, chosen)


def _become(model: nn.Module, slim: nn.Module) -> nn.Module:
    """The very object, with what a cut copy of it is made of."""
    model.__class__ = type(slim)
    model.__dict__ = slim.__dict__
    for hold in (rebind, belong):  # functions that hold the copy by itself
        hold(model, {id(slim): model})
    return model


@torch.no_grad()
def _as_before(new: nn.Module, old: nn.Module) -> None:
    """Modes, devices and what is trained, as they were."""
    modes = {name: module.training for name, module in old.named_modules()}
    trained = {name: p.requires_grad for name, p in old.named_parameters()}
    devices = {t.device for t in (*old.parameters(), *old.buffers())}
    if len(devices) == 1:
        new.to(devices.pop())
    new.train(old.training)
    for name, module in new.named_modules():
        module.training = modes.get(name, old.training)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(trained.get(name, parameter.requires_grad))
