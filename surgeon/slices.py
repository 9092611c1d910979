"""The kept part of a tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def sliced(
    tensor: Tensor,
    dims: Mapping[int, tuple[int, ...]],
    places: dict[tuple[int, ...], Tensor] | None = None,
) -> Tensor:
    """The kept part of a tensor, as a tensor of its own; a parameter stays a parameter.

    places: index tensors made before; one plan names the same positions again and again.
    """
    new = tensor.detach()
    places = {} if places is None else places
    for d, kept in dims.items():
        if kept not in places:
            places[kept] = torch.tensor(kept)
        new = new.index_select(d, places[kept].to(new.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
