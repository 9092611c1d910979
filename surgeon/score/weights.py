"""What criteria read of the weights: norms and rows of a model's state along each dim."""

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
        self.seed = seed
        self.random = np.random.default_rng(seed)
        self._norms: dict[tuple[str, int, float], Array] = {}

    def members(self, group: Group) -> Iterator[Member]:
        """The members whose weights decide; all of them where `by` leaves none."""
        # one without elements says nothing: as many class tokens as none, [0, width]
        full = [m for m in group.members if self.state[m.state].numel()]
        matrices = [m for m in full if self.state[m.state].dim() >= 2]
        asked = [m for m in matrices if m.role in ROLES[self.by]]
        return iter(asked or matrices or full)

    def power_sums(self, member: Member, p: float) -> Array:
        """Sum of |w|^p over everything at each position of the member's dim: [extent]. p = inf: the largest |w|."""
        key = (member.state, member.dim, p)
        if key not in self._norms:
            w = self.tensor(member)
            sums = _largest(w, member.dim) if p == np.inf else _power_sums(w, member.dim, int(p))
            self._norms[key] = sums.double().cpu().numpy()
        return self._norms[key]

    def rows(self, member: Member, size: int) -> tuple[Array, NDArray[np.int64]]:
        """Everything that each channel has in a member, as vectors: [channels held, weights of one], and
        which channels they are. Channels that hold several positions have them one after another.

        ([0, 0], []) where channels do not hold equally many positions: they cannot be compared.
        """
        order = np.argsort(member.channel, kind="stable")
        held = np.bincount(member.channel, minlength=size)
        here = np.flatnonzero(held)
        if len(set(held[here].tolist())) != 1:
            return np.zeros((0, 0)), np.zeros(0, np.int64)
        w = self.tensor(member).movedim(member.dim, 0).flatten(1)
        at = torch.from_numpy(member.at[order]).to(w.device)
        return w[at].double().cpu().numpy().reshape(len(here), -1), here

    def tensor(self, member: Member) -> Tensor:
        """A member's weights in at least single precision, real."""
        w = self.state[member.state].detach()
        if w.is_meta:
            raise BadInput(
                f"{member.state} is on the meta device: it has no values to score",
                "load the weights first, or ask for criterion='random'",
            )
        w = w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
        return w.abs() if w.is_complex() else w


_CHUNK = 1 << 20  # elements: a temporary that stays in cache


def _largest(w: Tensor, dim: int) -> Tensor:
    return w.abs().movedim(dim, 0).flatten(1).amax(1) if w.dim() > 1 else w.abs()


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
