"""What is kept of the tensors at a point: sums over everything that was seen, never the data."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_ROWS = 1 << 14  # at a time, in double precision


class Statistic(Protocol):
    """Made for the extent of a point; `add` is given tensors [..., extent]."""

    def __init__(self, extent: int) -> None: ...

    def add(self, tensor: Tensor) -> None:
        """Take in what one run had at the point."""
        ...


class Moments:
    """For each position [extent], over all rows: sum, sum of squares, sum of magnitudes, how many are not zero."""

    def __init__(self, extent: int) -> None:
        self.count = 0
        self.sum = torch.zeros(extent, dtype=torch.float64)
        self.squares, self.magnitudes, self.active = (self.sum.clone() for _ in range(3))

    def add(self, tensor: Tensor) -> None:
        for part in tensor.reshape(-1, tensor.shape[-1]).split(_ROWS):
            rows = part.double().cpu()
            self.count += len(rows)
            self.sum += rows.sum(0)
            self.squares += rows.square().sum(0)
            self.magnitudes += rows.abs().sum(0)
            self.active += (rows != 0).sum(0)

    @property
    def variance(self) -> Tensor:
        """Over all rows: [extent], float64."""
        n = max(self.count, 1)
        return (self.squares / n - (self.sum / n).square()).clamp_min(0)


class Gram:
    """Sums of products of any two positions [extent, extent], and sums [extent], in double precision."""

    def __init__(self, extent: int) -> None:
        self.count = 0
        self.sum = torch.zeros(extent, dtype=torch.float64)
        self.products = torch.zeros(extent, extent, dtype=torch.float64)

    def add(self, tensor: Tensor) -> None:
        for part in tensor.reshape(-1, tensor.shape[-1]).split(_ROWS):
            rows = part.double()
            self.count += len(rows)
            self.sum += rows.sum(0).cpu()
            self.products += (rows.T @ rows).cpu()

    @property
    def covariance(self) -> Tensor:
        """[extent, extent], float64."""
        n = max(self.count, 1)
        centre = self.sum / n
        return self.products / n - centre[:, None] * centre[None]


class Ranks:
    """Sum of the ranks of each position's maps [extent]: of one example's last two dimensions beside the channels.

    A row of numbers (tokens) is a map of rank one, or of zero where all are zero.
    """

    def __init__(self, extent: int) -> None:
        self.count = 0
        self.sum = torch.zeros(extent, dtype=torch.float64)

    def add(self, tensor: Tensor) -> None:
        x = tensor.movedim(-1, 0).float()
        x = x.reshape(x.shape[0], -1, 1, 1) if x.dim() < 3 else x
        maps = x.unsqueeze(-2) if x.dim() == 3 else x
        maps = maps.reshape(maps.shape[0], -1, *maps.shape[-2:])
        self.count += maps.shape[1]
        self.sum += torch.linalg.matrix_rank(maps).double().sum(1).cpu()


class ByClass:
    """Of each class, over its examples: how many, and sum and sum of squares of an example's mean [extent]."""

    def __init__(self, extent: int) -> None:
        self.extent = extent
        self.sums: dict[int, Tensor] = {}  # class -> [2, extent]
        self.counts: dict[int, int] = {}

    def add(self, tensor: Tensor, label: int) -> None:
        mean = tensor.reshape(-1, tensor.shape[-1]).double().mean(0).cpu()
        both = torch.stack([mean, mean.square()])
        self.counts[label] = self.counts.get(label, 0) + 1
        self.sums[label] = self.sums.get(label, 0) + both

    @property
    def variances(self) -> tuple[Tensor, Tensor]:
        """Of all examples, and within classes: [extent] each, float64."""
        n = sum(self.counts.values())
        total = torch.stack(list(self.sums.values())).sum(0)
        whole = total[1] / n - (total[0] / n).square()
        within = torch.zeros(self.extent, dtype=torch.float64)
        for label, (first, second) in self.sums.items():
            within += second - first.square() / self.counts[label]
        return whole.clamp_min(0), (within / n).clamp_min(0)
