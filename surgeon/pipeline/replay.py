"""A plan replayed on a model: the same cut as when it was made, or the first mismatch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from surgeon.errors import BadInput
from surgeon.pipeline.proven import carried_out, finished
from surgeon.pipeline.result import Result
from surgeon.pipeline.steps import Progress, Steps
from surgeon.pipeline.traced import trace
from surgeon.plan import Plan
from surgeon.planning import recounted, refuse_other_model, refuse_other_shapes
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorded import recorded
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


def apply(plan: Plan, model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """The slim copy that a plan describes, in eval mode. Raises BadInput at the first mismatch.

    Without example_inputs, constants of the shapes recorded in the plan are used.
    """
    return apply_checked(plan, model, example_inputs, check=False, measure=False).model


def apply_checked(
    plan: Plan,
    model: nn.Module,
    example_inputs: Any = None,
    *,
    check: bool = True,
    measure: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Replay a plan as `shrink` would have cut it, proven and measured."""
    run = Steps(progress)
    model = unwrapped(model)
    inputs = Inputs.of(example_inputs) if example_inputs is not None else inputs_of(plan)
    try:
        traced = run("trace and couple", lambda: trace(model, inputs))
    except BadInput:  # another model takes other inputs: that is what should be said of it
        refuse_other_shapes(plan, {n: tuple(t.shape) for n, t in named_state(model).items()})
        raise
    refuse_other_model(plan, traced.graph)
    plan, said = _as_cut(recounted(traced.coupling, plan))
    done, traced = run("cut", lambda: carried_out(traced, inputs, plan))
    given = (model, inputs, traced)
    return finished(given, done, plan, said + traced.notes, run, (check, measure))


def _as_cut(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """A plan says what goes and not which weights were changed later: of those a replay has none."""
    if "tuned" not in plan.model:
        return plan, ()
    said = "the plan is of a network whose weights were changed after the cut; a replay has them as cut"
    return replace(plan, model={k: v for k, v in plan.model.items() if k != "tuned"}), (said,)


def inputs_of(plan: Plan) -> Inputs:
    """Constants of the shapes and types that a plan was made with."""
    return recorded(plan.model.get("inputs"))
