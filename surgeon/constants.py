"""The constants of dead channels, added to what stays of the tensors that take them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.plan import Plan
from surgeon.slices import sliced
from surgeon.trace.tensors import named_state


@torch.no_grad()
def add_carries(slim: nn.Module, plan: Plan) -> None:
    """Add a plan's `carries` to a fresh cut copy, in float64; a tied tensor once.

    Raises BadInput where the plan speaks of other tensors.
    """
    own = named_state(slim)
    done: set[int] = set()
    for name, added in (plan.carries or {}).items():
        tensor = own.get(name)
        if tensor is None or tensor.numel() != len(added):
            raise BadInput(
                f"the plan adds {len(added)} constants to {name}, which does not hold as many",
                "make the plan again from this model: surgeon shrink --dead",
            )
        if id(tensor) not in done:
            done.add(id(tensor))
            tensor.copy_(tensor.double() + as_carried(tensor, added))


def carried(name: str, original: Tensor, plan: Plan) -> Tensor:
    """What stays of an original tensor with its constants added, f64."""
    kept = sliced(original, plan.keep.get(name, {})).detach().double()
    return kept + as_carried(kept, (plan.carries or {})[name])


def as_carried(tensor: Tensor, added: tuple[float, ...]) -> Tensor:
    """The constants in the tensor's shape, f64."""
    return torch.tensor(added, dtype=torch.float64, device=tensor.device).reshape(tensor.shape)
