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
_AT_ONCE = 32
_CHOICE = 4


@dataclass(frozen=True, eq=False)
class Removal:
    """`order` [channels]: which go first. `patches`: {channels gone: {weight name: (weights, shift)}}, the best
    weights [outputs, terms] of each consumer without them, and what is added to its result [outputs]."""

    order: NDArray[np.int64]
    patches: Mapping[int, Mapping[str, tuple[Tensor, Tensor]]]


@dataclass(eq=False)
class _Part:
    """One consumer while channels go: `weight` [outputs, terms], `inverse` moments [terms, terms], `terms` [channels,
    terms of a channel], `outs` [outputs]: what a square of each result counts."""

    name: str
    terms: Tensor
    weight: Tensor
    inverse: Tensor
    outs: Tensor

    @classmethod
    def of(cls, consumer: Consumer, terms: Tensor) -> _Part:
        second, weight = consumer.data.covariance, consumer.weight.clone()
        level = second.diagonal().mean().clamp_min(1e-30)
        inverse = torch.linalg.inv(second + _RIDGE * level * torch.eye(len(second)).double())
        outs = consumer.scale.square()
        total = outs @ ((weight @ second) * weight).sum(1)
        return cls(consumer.name, terms, weight, inverse, outs / total.clamp_min(1e-30))

    def losses(self) -> Tensor:
        """[channels]: what the results would lose, relative to all that they carry."""
        own = self.inverse[self.terms[:, :, None], self.terms[:, None, :]]
        weights = self.weight[:, self.terms]  # outputs, channels, terms
        carried = torch.einsum("ocs,oct,o->cst", weights, weights, self.outs)
        return torch.linalg.solve(own + _tiny(own), carried).diagonal(0, -2, -1).sum(-1)

    def among(self, channels: Tensor) -> _Part:
        """A part of these channels alone, of its own."""
        flat = self.terms[channels].flatten()
        terms = torch.arange(len(flat)).view(len(channels), -1)
        inverse = self.inverse[flat[:, None], flat]
        # outputs tell apart no more than their products with each other do
        weight = self.weight[:, flat] * self.outs.sqrt()[:, None]
        if len(weight) > len(flat):
            weight = torch.linalg.qr(weight, mode="r").R
        return _Part(self.name, terms, weight, inverse, torch.ones(len(weight)).double())

    def remove(self, channels: Tensor) -> None:
        """All of them at once, which is what one after another comes to."""
        terms = self.terms[channels].flatten()
        own = self.inverse[terms[:, None], terms]
        gain = torch.linalg.solve(own + _tiny(own[None])[0], self.inverse[terms])
        self.weight -= self.weight[:, terms] @ gain
        self.inverse -= self.inverse[:, terms] @ gain
        self.weight[:, terms] = 0
        self.inverse[terms] = 0
        self.inverse[:, terms] = 0

    def patch(self, consumer: Consumer) -> tuple[Tensor, Tensor]:
        shift = (consumer.weight - self.weight) @ consumer.mean
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
    parts = [_Part.of(consumers[n], terms) for n, terms in blocks(group, consumers).items()]
    said = np.argsort(start, kind="stable")
    if not parts:
        return Removal(said, {k: {} for k in marks})
    stops = sorted({*marks, group.size - 1})
    order: list[int] = []
    patches: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
    left = torch.ones(group.size, dtype=torch.bool)
    while len(order) < group.size - 1:
        room = next(s for s in stops if s > len(order)) - len(order)
        some = _next(parts, left, room) if free else said[len(order) : len(order) + room].tolist()
        order += some
        left[some] = False
        for part in parts:
            part.remove(torch.tensor(some))
        if len(order) in marks:
            patches[len(order)] = {p.name: p.patch(consumers[p.name]) for p in parts}
    return Removal(np.array([*order, int(left.nonzero()[0, 0])]), patches)


def _next(parts: list[_Part], left: Tensor, room: int) -> list[int]:
    """The next channels to go, at most `room`: greedy, one by one.

    Of many channels, one in `_AT_ONCE` goes before all losses are looked at again; till then the choice is among a
    few times as many that lose least, each loss being what it is after those before it.
    """
    count = min(room, max(1, int(left.sum()) // _AT_ONCE))
    losses = sum((p.losses() for p in parts), torch.zeros(len(left)).double())
    losses = losses.masked_fill(~left, torch.inf)
    if count == 1:
        return [int(losses.argmin())]
    few = losses.topk(min(_CHOICE * count, int(left.sum())), largest=False).indices
    here = [p.among(few) for p in parts]
    gone = torch.zeros(len(few), dtype=torch.bool)
    out: list[int] = []
    while len(out) < count:
        losses = sum((p.losses() for p in here), torch.zeros(len(few)).double())
        channel = losses.masked_fill(gone, torch.inf).argmin()
        gone[channel] = True
        out.append(int(few[channel]))
        for part in here:
            part.remove(channel[None])
    return out
