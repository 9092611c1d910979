"""In which order a group's channels go so that what takes them loses least: greedy, with updates.

The loss of a channel is what no other channel can give to the consumers' results once their weights are the
best for what is left: optimal brain surgeon (Hassibi & Stork 1993) for blocks of inputs, as in SparseGPT
and GRAIL, on the second moments of the data. Every removal updates the weights and the inverse moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.grouping import Group
from surgeon.heal.consumers import Consumer, blocks

_RIDGE = 1e-3  # of the mean square of a term


@dataclass(frozen=True, eq=False)
class Removal:
    """`order` [channels]: which go first. `patches`: {channels gone: {weight name: (weights, shift)}}, the best
    weights [outputs, terms] of each consumer without them, and what is added to its result [outputs]."""

    order: NDArray[np.int64]
    patches: Mapping[int, Mapping[str, tuple[Tensor, Tensor]]]


class _Part:
    """One consumer while channels go."""

    def __init__(self, consumer: Consumer, terms: Tensor) -> None:
        self.consumer, self.terms = consumer, terms
        second = consumer.data.covariance
        level = second.diagonal().mean().clamp_min(1e-30)
        self.inverse = torch.linalg.inv(second + _RIDGE * level * torch.eye(len(second)).double())
        self.weight = consumer.weight.clone()
        total = ((self.weight @ second) * self.weight).sum(1)
        self.outs = consumer.scale.square() / (consumer.scale.square() * total).sum().clamp_min(
            1e-30
        )

    def losses(self) -> Tensor:
        """[channels]: what the results would lose, relative to all that they carry."""
        own = self.inverse[self.terms[:, :, None], self.terms[:, None, :]]
        weights = self.weight[:, self.terms].movedim(1, 0)  # channels, outputs, terms
        weights = weights * self.outs.sqrt()[:, None]
        spent = torch.linalg.solve(own + _tiny(own), weights.mT)
        return (weights.mT * spent).sum((1, 2))

    def remove(self, channel: int) -> None:
        terms = self.terms[channel]
        own = self.inverse[terms][:, terms]
        gain = torch.linalg.solve(own + _tiny(own[None])[0], self.inverse[terms])
        self.weight = self.weight - self.weight[:, terms] @ gain
        self.inverse = self.inverse - self.inverse[:, terms] @ gain
        self.weight[:, terms] = 0
        self.inverse[terms] = 0
        self.inverse[:, terms] = 0

    def patch(self) -> tuple[Tensor, Tensor]:
        shift = (self.consumer.weight - self.weight) @ self.consumer.mean
        return self.weight.clone(), shift


def _tiny(own: Tensor) -> Tensor:
    """Keeps the blocks of removed channels, which are zero, solvable."""
    level = own.diagonal(0, -2, -1).mean(-1)
    return (
        torch.where(level > 0, level * 1e-9, 1.0)[:, None, None] * torch.eye(own.shape[-1]).double()
    )


def removal(
    group: Group,
    consumers: Mapping[str, Consumer],
    marks: tuple[int, ...],
    start: NDArray[np.float64],
    free: bool = True,
) -> Removal:
    """The order in which channels go, with patches after each number of channels in `marks`.

    start: scores [channels]: the lowest go first in a group of which no consumer is known, and where the
    order is not free.
    """
    parts = [_Part(consumers[n], terms) for n, terms in blocks(group, consumers).items()]
    if not parts:
        return Removal(np.argsort(start, kind="stable"), {k: {} for k in marks})
    said = np.argsort(start, kind="stable")
    order: list[int] = []
    patches: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
    gone = torch.zeros(group.size, dtype=torch.bool)
    for _ in range(group.size - 1):
        channel = int(said[len(order)])
        if free:
            losses = sum((p.losses() for p in parts), torch.zeros(group.size).double())
            channel = int(losses.masked_fill(gone, torch.inf).argmin())
        gone[channel] = True
        order.append(channel)
        for part in parts:
            part.remove(channel)
        if len(order) in marks:
            patches[len(order)] = {p.consumer.name: p.patch() for p in parts}
    order.append(int((~gone).nonzero()[0, 0]))
    return Removal(np.array(order), patches)
