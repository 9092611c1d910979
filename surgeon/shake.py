"""Random weights that hide nothing, for a network whose own weights do.

A cut is right or wrong whatever the weights are, but some weights cannot tell: a head that is all
zero, a bias that drowns tiny features, a layer scale of 1e-6. Then the same cut is also compared on
weights that carry every feature to the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgeon.plan import Plan
from surgeon.slices import sliced
from surgeon.trace.tensors import named_state


@torch.no_grad()
def follow(small: nn.Module, model: nn.Module, plan: Plan) -> None:
    """Give a cut model the kept part of the original's present state, by name."""
    own = named_state(model)
    for name, tensor in named_state(small).items():
        if name in own and tensor.is_floating_point():
            tensor.copy_(_planned(name, own[name], plan))


def strange_weight(model: nn.Module, small: nn.Module, plan: Plan) -> str | None:
    """The first weight of the cut model that is not what the plan leaves of the original's, or None."""
    own = named_state(model)
    for name, tensor in small.named_parameters():
        if name not in own:
            return name
        want = _planned(name, own[name], plan)
        rounding = (
            1e-6 if name in plan.folds else 0.0
        )  # a factor is rounded to the weight's precision
        if want.shape != tensor.shape or not torch.allclose(
            want, tensor, rtol=rounding, atol=0.0, equal_nan=True
        ):
            return name
    return None


def _planned(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    kept = sliced(tensor, plan.keep.get(name, {})).detach()
    for first, last, factor in plan.folds.get(name, ()):
        kept[first:last] *= factor
    return kept
