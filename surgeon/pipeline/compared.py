"""What a network and its cut copy cost. A cut that is proven stays one where that cannot be told."""

from __future__ import annotations

from torch import nn

from surgeon.errors import SurgeonError
from surgeon.measure.pair import BeforeAfter, before_after
from surgeon.pipeline.slower import notes_of
from surgeon.plan import Plan
from surgeon.trace.inputs import Inputs


def compared(
    model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs
) -> tuple[BeforeAfter | None, tuple[str, ...]]:
    """Both counted and timed, and what to say of it; None, and why, where they cannot be."""
    try:
        measured = before_after(model, slim, inputs)
    except SurgeonError as error:
        return None, (f"not measured: {error.message}",)
    return measured, notes_of(measured, plan)
