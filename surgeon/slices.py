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
    new = new.contiguous(memory_format=_format(tensor)) if dims else new
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _format(tensor: Tensor) -> torch.memory_format:
    """Channels last stays channels last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last
