"""What criteria read: the norms of a model's state along each dim, computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.errors import BadInput
from surgeon.grouping import Group, Member

Array = NDArray[np.float64]

# --by: whose weights decide. 'group' asks all matrices and kernels, not biases and norms
ROLES = {"group": ("makes", "takes", "along"), "filter": ("makes",), "shared-kernel": ("takes",)}


class Weights:
    """State tensors of the model being scored, read only."""

    def __init__(self, state: Mapping[str, Tensor], by: str = "group", seed: int = 0) -> None:
        self.state = state
        self.by = by
        self.random = np.random.default_rng(seed)
        self._norms: dict[tuple[str, int, int], Array] = {}

    def members(self, group: Group) -> Iterator[Member]:
        """The members whose weights decide; all of them where `by` leaves none."""
        matrices = [m for m in group.members if self.state[m.state].dim() >= 2]
        asked = [m for m in matrices if m.role in ROLES[self.by]]
        return iter(asked or matrices or group.members)

    def power_sums(self, member: Member, p: int) -> Array:
        """Sum of |w|^p over everything at each position of the member's dim: [extent]."""
        key = (member.state, member.dim, p)
        if key not in self._norms:
            w = self.state[member.state].detach()
            if w.is_meta:
                raise BadInput(
                    f"{member.state} is on the meta device: it has no values to score",
                    "load the weights first, or ask for criterion='random'",
                )
            w = w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
            w = w.abs() if w.is_complex() else w
            sums = _power_sums(w, member.dim, p)
            self._norms[key] = sums.double().cpu().numpy()
        return self._norms[key]


_CHUNK = 1 << 20  # elements: a temporary that stays in cache


def _power_sums(w: Tensor, dim: int, p: int) -> Tensor:
    """Sum of |w|^p over all other dims. Rows are summed first: strided norms are ten times slower."""
    if dim == 0 or w.dim() == 1:
        return (
            torch.linalg.vector_norm(w.flatten(1), p, 1).pow(p) if w.dim() > 1 else w.abs().pow(p)
        )
    rows = max(_CHUNK // max(w[0].numel(), 1), 1)
    total = w.new_zeros(w.shape[1:])
    for part in w.split(rows):
        total += (part.abs() if p == 1 else part.square()).sum(0)
    rest = [d for d in range(total.dim()) if d != dim - 1]
    return total.sum(rest) if rest else total
