"""A network whose weights were tuned after the cut: its structure is proven on the weights of the original."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from surgeon.check import CheckResult, check
from surgeon.errors import CheckFailed
from surgeon.plan import Plan
from surgeon.shake import follow
from surgeon.slices import sliced
from surgeon.trace.folding import own_copy, ready
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped


def check_structure(model: nn.Module, slim: nn.Module, plan: Plan, inputs: Any) -> CheckResult:
    """As `check`, with the kept part of `model`'s weights in a copy of `slim`; neither is changed.

    Raises CheckFailed too where a weight of `slim` is not of the shape that the plan leaves, or is none
    of the original's.
    """
    plain = ready(unwrapped(model)).model
    own = named_state(plain)
    for name, weight in unwrapped(slim).named_parameters():
        left = sliced(own[name], plan.keep.get(name, {})).shape if name in own else None
        if left != weight.shape:
            want = "is no weight of the original" if left is None else f"should be {list(left)}"
            raise CheckFailed(f"{name}, {list(weight.shape)}, {want}")
    small = own_copy(unwrapped(slim), {})
    follow(small, plain, plan)
    # of other weights than those that were dead, the masked original tells
    result = check(model, small, replace(plan, carries=None), inputs)
    said = "tuned: weights differ by design; structure proven on the original's weights"
    return replace(result, notes=(said, *result.notes))
