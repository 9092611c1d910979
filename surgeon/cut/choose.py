"""Which of the two surgeries: module surgery where the module's own forward then does what was planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from surgeon.couple import Coupling
from surgeon.cut.fits import Misfit, misfit
from surgeon.cut.module import CutModule, cut_module
from surgeon.cut.program import cut_program
from surgeon.cut.repair import repair
from surgeon.cut.sizes import Sizes
from surgeon.errors import BadInput, SurgeonError
from surgeon.plan import Folds, Plan
from surgeon.planning import removed_by
from surgeon.trace.called import calls
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import Program
from surgeon.trace.record import record_as


@dataclass(frozen=True)
class Cut:
    """A cut model in eval mode.

    `way` is 'module' or 'program', `why` says why not the first. `folds` is what the plan must say of
    factors put into weights. Where it is not `certain`, only the oracle can tell that it is right.
    """

    model: nn.Module
    way: str
    why: str | None = None
    folds: Folds = field(default_factory=dict)
    certain: bool = True


def cut(model: nn.Module, inputs: Any, coupling: Coupling, plan: Plan) -> Cut:
    """A smaller copy of `model`; the model is not touched.

    Raises BadInput where the plan does not fit, SurgeonError where neither surgery can write it.
    """
    with torch.inference_mode(False):  # what is made here may be trained
        return _cut(model, Inputs.of(inputs), coupling, plan)


def _cut(model: nn.Module, inputs: Inputs, coupling: Coupling, plan: Plan) -> Cut:
    if isinstance(model, Program):
        program, certain = cut_program(model, inputs, plan)
        return Cut(program, "program", certain=certain)
    slim, found = cut_fitting(model, inputs, coupling, plan)
    if found is None:
        certain = not any(
            True for _ in calls(coupling.graph)
        )  # what is inside, nothing was seen of
        return Cut(slim.model, "module", folds=slim.folds, certain=certain)
    try:
        program, certain = cut_program(model, inputs, plan)
    except BadInput as error:
        raise SurgeonError(
            f"neither surgery can cut this network: its own forward does not follow ({found.why}), "
            f"and as a program: {error.message}",
            error.hint,
        ) from error
    return Cut(program, "program", found.why, certain=certain)


def cut_fitting(
    model: nn.Module, inputs: Inputs, coupling: Coupling, plan: Plan
) -> tuple[CutModule, Misfit | None]:
    """Module surgery: the slim module, and where its forward does not follow the cut."""
    sizes = Sizes(coupling, removed_by(coupling, plan))
    slim = cut_module(model, plan.keep, sizes)
    found = _misfit(slim, inputs, coupling, sizes)
    if found is not None:

        def fits() -> bool:
            return _misfit(slim, inputs, coupling, sizes) is None

        found = None if repair(slim.model, sizes, fits) else found
    return slim, found


def _misfit(slim: CutModule, inputs: Inputs, coupling: Coupling, sizes: Sizes) -> Misfit | None:
    try:
        after = record_as(slim.model, inputs, on_meta=coupling.graph.on_meta)
    except BadInput as error:
        failure = error.message.split("\n")[0].removeprefix("the model fails in forward: ")
        return Misfit(f"its own forward fails on the cut tensors: {failure}")
    return misfit(coupling.graph, after, sizes, slim.folded)
