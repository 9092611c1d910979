"""Random weights that hide nothing, for a network whose own weights do.

A cut is right or wrong whatever the weights are, but some weights cannot tell: a head that is all
zero, a bias that drowns tiny features, a layer scale of 1e-6. Then the same cut is also compared on
weights that carry every feature to the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgeon.constants import carried
from surgeon.errors import CheckFailed
from surgeon.plan import Plan
from surgeon.slices import sliced
from surgeon.trace.tensors import named_state


@torch.no_grad()
def follow(small: nn.Module, model: nn.Module, plan: Plan) -> None:
    """Give a cut model the kept part of the original's present state, by name."""
    own = named_state(model)
    for name, tensor in named_state(small).items():
        if name in own and tensor.is_floating_point():
            tensor.copy_(planned(name, own[name], plan))


def strange_weight(
    model: nn.Module, small: nn.Module, plan: Plan, rounding: float = 1e-6
) -> str | None:
    """The first weight of the cut model that is not what the plan leaves of the original's, or None.

    rounding: relative, of a weight that took up a factor or a constant in its own precision.
    """
    own = named_state(model)
    for name, tensor in small.named_parameters():
        if name not in own:
            return name
        carries = name in (plan.carries or {})
        want = (
            carried(name, own[name], plan).to(tensor) if carries else planned(name, own[name], plan)
        )
        within = rounding if name in plan.folds or carries else 0.0
        if want.shape != tensor.shape or not torch.allclose(
            want, tensor, rtol=within, atol=0.0, equal_nan=True
        ):
            return name
    return None


@torch.no_grad()
def carry_widely(small: nn.Module, model: nn.Module, plan: Plan, rounding: float) -> None:
    """Take the constants of dead channels as they were computed, not as the slim model's dtype rounds them.

    rounding: that of the dtype, relative. Raises CheckFailed where a tensor of the slim model is not what they and the original's make.
    """
    own, original = named_state(small), named_state(model)
    for name in plan.carries or ():
        if name not in own or name not in original:
            raise CheckFailed(f"the slim model has no {name}, which takes up constants")
        want = carried(name, original[name], plan)
        if want.shape != own[name].shape or not torch.allclose(
            want, own[name].double(), rtol=rounding, atol=0.0
        ):
            raise CheckFailed(f"{name} is not the original's with the constants of the plan added")
        own[name].copy_(want)


def planned(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """What a plan leaves of a tensor, with the factors that its rows take up."""
    kept = sliced(tensor, plan.keep.get(name, {})).detach()
    factors = plan.folds.get(name, ())
    kept = kept.clone() if factors else kept  # what is whole is the tensor itself
    for first, last, factor in factors:
        kept[first:last] *= factor
    return kept
