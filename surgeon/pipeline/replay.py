"""A plan replayed on a model: the same cut as when it was made, or the first mismatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from torch import nn
from typing_extensions import Unpack

from surgeon.cut import NotFollowed
from surgeon.errors import BadInput
from surgeon.pipeline.asked import fit_alone
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.recovered import recovered
from surgeon.pipeline.result import Result
from surgeon.pipeline.steps import Progress, Steps
from surgeon.pipeline.traced import trace
from surgeon.plan import Plan
from surgeon.planning import recounted, refuse_other_model, refuse_other_shapes
from surgeon.score import Material
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorded import recorded
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped

_AS_CUT = "the plan is of a network whose weights were changed after the cut; a replay without data has them as cut"


class Fit(TypedDict, total=False):
    """What fits the network that a plan cuts to the original: as in `shrink`. recover: ('compensate',) or ()."""

    data: Iterable[Any]
    labelled: bool
    recover: Sequence[str]


def apply(
    plan: Plan, model: nn.Module, example_inputs: Any = None, **fit: Unpack[Fit]
) -> nn.Module:
    """The slim copy that a plan describes, in eval mode, fitted where data are given. Raises BadInput at the first mismatch.

    Without example_inputs, noise of the shapes recorded in the plan is used, and constants for integers.
    """
    return apply_checked(plan, model, example_inputs, check=False, measure=False, **fit).model


def apply_checked(
    plan: Plan,
    model: nn.Module,
    example_inputs: Any = None,
    *,
    check: bool = True,
    measure: bool = True,
    progress: Progress | None = None,
    **fit: Unpack[Fit],
) -> Result:
    """Replay a plan as `shrink` would have cut it, proven and measured; with data, fitted after the proof."""
    run, material = Steps(progress), material_of(plan, fit)
    model = unwrapped(model)
    inputs = Inputs.of(example_inputs) if example_inputs is not None else inputs_of(plan)
    try:
        traced = run("trace and couple", lambda: trace(model, inputs))
    except BadInput:  # another model takes other inputs: that is what should be said of it
        refuse_other_shapes(plan, {n: tuple(t.shape) for n, t in named_state(model).items()})
        raise
    refuse_other_model(plan, traced.graph)
    fits = "compensate" in material.recover
    plan, said = _as_cut(recounted(traced.coupling, plan), fits)
    done, traced = run("cut", lambda: carried_out(traced, inputs, plan))
    given = (model, inputs, traced)
    try:
        result = finished(given, done, plan, said + traced.notes, run, (check, measure))
    except NotFollowed as neither:  # a plan that is given is not made again
        raise neither.disproved or neither from neither.__cause__
    return run("recover", lambda: recovered(result, traced, material)) if fits else result


def material_of(plan: Plan | None, fit: Fit) -> Material:
    """What fits the cut network. BadInput for what a plan leaves no room for; plan: None where it is not read yet."""
    given = dict(fit)
    material = fit_alone(Material.of(given), fit.get("recover"), "the plan")
    if given:
        raise BadInput(
            f"no option {', '.join(given)}", f"there are {', '.join(Fit.__annotations__)}"
        )
    if plan is not None and plan.carries is not None and material.recover:
        raise BadInput(
            "what the plan removes is dead: the outputs stay as they are", "leave out data"
        )
    return material


def _as_cut(plan: Plan, fits: bool) -> tuple[Plan, tuple[str, ...]]:
    """A plan says what goes and not which weights were changed later: of those a replay has none."""
    if "tuned" not in plan.model:
        return plan, ()
    said = () if fits else (_AS_CUT,)
    return plan.unmarked(), said


def inputs_of(plan: Plan) -> Inputs:
    """Constants of the shapes and types that a plan was made with."""
    return recorded(plan.model.get("inputs"))
