"""The slim network fitted to the dense one on the user's data, after the proof."""

from __future__ import annotations

from dataclasses import replace

from surgeon.heal.recover import recover
from surgeon.pipeline.result import Result
from surgeon.pipeline.traced import Traced
from surgeon.score import Material


def recovered(result: Result, traced: Traced, material: Material) -> Result:
    """The slim network fitted to the dense one on the user's data; its plan says so."""
    assert material.data is not None
    about = {"data": material.data.about} if material.data.about else {}
    done = recover(traced.model, result.model, result.plan, material.data)
    plan = result.plan.marked({**done.how(), **about})
    return replace(
        result,
        plan=plan if done.layers else result.plan,
        recovery=done,
        notes=result.notes + done.notes,
    )
