"""Which of the two surgeries: module surgery where the module's own forward then does what was planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from surgeon.couple import Coupling
from surgeon.cut.fits import misfit
from surgeon.cut.module import CutModule, cut_module
from surgeon.cut.program import cut_program
from surgeon.cut.repair import repair
from surgeon.cut.sizes import Sizes
from surgeon.errors import BadInput, SurgeonError
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.trace.program import Program
from surgeon.trace.record import record


@dataclass(frozen=True)
class Cut:
    """A cut model in eval mode. `way` is 'module' or 'program', `why` says why not the first."""

    model: nn.Module
    way: str
    why: str | None = None


def cut(model: nn.Module, inputs: tuple[Any, ...], coupling: Coupling, plan: Plan) -> Cut:
    """A smaller copy of `model`; the model is not touched.

    Raises BadInput where the plan does not fit, SurgeonError where neither surgery can write it.
    """
    with torch.inference_mode(False):  # what is made here may be trained
        return _cut(model, inputs, coupling, plan)


def _cut(model: nn.Module, inputs: tuple[Any, ...], coupling: Coupling, plan: Plan) -> Cut:
    if isinstance(model, Program):
        return Cut(cut_program(model, inputs, plan), "program")
    slim, why = cut_fitting(model, inputs, coupling, plan)
    if slim is not None:
        return Cut(slim, "module")
    try:
        return Cut(cut_program(model, inputs, plan), "program", why)
    except BadInput as error:
        raise SurgeonError(
            f"neither surgery can cut this network: its own forward does not follow ({why}), "
            f"and as a program: {error.message}",
            error.hint,
        ) from error


def cut_fitting(
    model: nn.Module, inputs: tuple[Any, ...], coupling: Coupling, plan: Plan
) -> tuple[nn.Module | None, str | None]:
    """Module surgery: the slim module, or None and why its forward does not follow the cut."""
    sizes = Sizes(coupling, removed_by(coupling, plan))
    slim = cut_module(model, plan.keep, sizes)
    why = _misfit(slim, inputs, coupling, sizes)
    if why is not None and repair(slim.model, sizes):
        why = _misfit(slim, inputs, coupling, sizes)
    return (slim.model if why is None else None), why


def _misfit(
    slim: CutModule, inputs: tuple[Any, ...], coupling: Coupling, sizes: Sizes
) -> str | None:
    try:
        after = record(slim.model, inputs)
    except BadInput as error:
        return error.message.split("\n")[0]
    return misfit(coupling.graph, after, sizes, slim.folded)
