"""Gradients of the original's weights, example by example, summed up for each position of each member."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.grouping import Group, Member
from surgeon.score.batches import Sample
from surgeon.score.loss import Loss, distance, loss_of
from surgeon.score.watch import to_device
from surgeon.trace.mode import forward_mode
from surgeon.trace.record import forward_failed
from surgeon.trace.shell import shell

Array = NDArray[np.float64]
Place = tuple[str, int]  # state, dim
PROBES = 4  # random directions of a batch for the Hessian's diagonal


@dataclass
class Slopes:
    """Means over examples. By place, [extent]: `magnitude` sum of |g| and `fisher` sum of w^2 g^2 of all weights there.

    By group and place, [channels]: `squared` and `absolute` of the sum of w g over a channel's weights.
    """

    magnitude: dict[Place, Array]
    fisher: dict[Place, Array]
    squared: dict[tuple[str, Place], Array]
    absolute: dict[tuple[str, Place], Array]


@dataclass(frozen=True)
class Source:
    """Where gradients come from: the original, the groups whose members they are of, and the loss."""

    model: nn.Module
    groups: tuple[Group, ...]
    loss: Loss | None
    seed: int

    @contextmanager
    def copy(self) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """A copy to be differentiated, and its parameters that a group reaches, by name."""
        twin = shell(self.model, torch.clone).eval()
        own = dict(twin.named_parameters(remove_duplicate=False))
        wanted = {m.state for g in self.groups for m in g.members}
        params: dict[str, Tensor] = {
            n: p for n, p in own.items() if n in wanted and p.is_floating_point()
        }
        for p in params.values():
            p.requires_grad_(True)
        with forward_mode(twin), torch.enable_grad():
            yield twin, params

    def members(self, params: dict[str, Tensor]) -> list[tuple[Group, Member]]:
        """Members that have a gradient."""
        return [(g, m) for g in self.groups for m in g.members if m.state in params]


def slopes(source: Source, samples: Iterable[Sample]) -> Slopes:
    """First order, over all examples. Memory: one number a position of each member, and one backward pass."""
    draw, sums = torch.Generator().manual_seed(source.seed), _Sums()

    def loss(out: Any, labels: Any) -> Tensor:
        return loss_of(out, labels, source.loss, draw)

    with source.copy() as (twin, params):
        members = source.members(params)
        for one in (one for sample in samples for one in sample.singles()):
            sums.add(members, params, _gradient(twin, params, one, loss))
    return sums.means()


class _Sums:
    """The sums over examples that become `Slopes`."""

    def __init__(self) -> None:
        self.count = 0
        self.magnitude: dict[Place, Any] = defaultdict(float)
        self.fisher: dict[Place, Any] = defaultdict(float)
        self.squared: dict[tuple[str, Place], Any] = defaultdict(float)
        self.absolute: dict[tuple[str, Place], Any] = defaultdict(float)

    def add(
        self,
        members: list[tuple[Group, Member]],
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor | None],
    ) -> None:
        """One example's gradients."""
        self.count += 1
        products: dict[Place, Array] = {}
        for group, m in members:
            place, g = (m.state, m.dim), grads[m.state]
            if g is None:
                continue
            if place not in products:
                change = params[m.state].detach() * g
                products[place] = _along(change, m.dim)
                self.magnitude[place] += _along(g.abs(), m.dim)
                self.fisher[place] += _along(change.square(), m.dim)
            total = np.bincount(m.channel, products[place][m.at], group.size)
            self.squared[group.name, place] += total**2
            self.absolute[group.name, place] += np.abs(total)

    def means(self) -> Slopes:
        """Over all examples."""
        n = self.count
        return Slopes(
            {k: v / n for k, v in self.magnitude.items()},
            {k: v / n for k, v in self.fisher.items()},
            {k: v / n for k, v in self.squared.items()},
            {k: v / n for k, v in self.absolute.items()},
        )


def curvature(source: Source, samples: Iterable[Sample]) -> dict[Place, Array]:
    """w^2 h / 2, h the diagonal of the loss's Hessian, summed over all weights at each position: [extent].

    Hutchinson's estimate, `PROBES` random signs a batch: the mean of v * (H v). With labels or a loss of the user's it is
    theirs, else of half the squared distance from the network's own outputs.
    """
    draw, count = torch.Generator().manual_seed(source.seed), 0
    found: dict[Place, Any] = defaultdict(float)
    with source.copy() as (twin, params):
        dims: dict[str, dict[int, None]] = defaultdict(dict)
        for _, m in source.members(params):
            dims[m.state][m.dim] = None
        for sample in samples:
            count += 1
            for name, diagonal in _diagonals(twin, params, sample, source.loss, draw):
                worth = params[name].detach().double().square() * diagonal / 2
                found.update({(name, d): found[name, d] + _along(worth, d) for d in dims[name]})
    return {k: v / count for k, v in found.items()}


def _diagonals(
    twin: nn.Module,
    params: dict[str, Tensor],
    sample: Sample,
    own: Loss | None,
    draw: torch.Generator,
) -> Iterator[tuple[str, Tensor]]:
    def loss(out: Any, labels: Any) -> Tensor:
        known = own is not None or labels is not None
        return loss_of(out, labels, own, draw) if known else distance(out)

    grads = _gradient(twin, params, sample, loss, again=True)
    live = {n: g for n, g in grads.items() if g is not None and g.requires_grad}
    for k in range(PROBES if live else 0):
        signs = {
            n: (torch.randint(0, 2, g.shape, generator=draw) * 2 - 1).to(g.device, g.dtype)
            for n, g in live.items()
        }
        total = torch.stack([(g * signs[n]).sum() for n, g in live.items()]).sum()
        second = torch.autograd.grad(
            total, [params[n] for n in live], allow_unused=True, retain_graph=k < PROBES - 1
        )
        for name, row in zip(live, second, strict=True):
            if row is not None:
                yield name, (row * signs[name]).detach().double() / PROBES


def _gradient(
    twin: nn.Module,
    params: dict[str, Tensor],
    sample: Sample,
    loss: Callable[[Any, Any], Tensor],
    again: bool = False,
) -> dict[str, Tensor | None]:
    """Of one forward; None of what it does not depend on. again: it is to be differentiated again."""
    inputs = to_device(sample.inputs, params)
    try:
        value = loss(inputs.run(twin), sample.labels)
        unique = list({id(p): p for p in params.values()}.values())
        found = torch.autograd.grad(value, unique, allow_unused=True, create_graph=again)
    except BadInput:
        raise
    except Exception as error:
        raise forward_failed(error, inputs) from error
    by_id = {id(p): g for p, g in zip(unique, found, strict=True)}
    if all(g is None for g in by_id.values()):
        raise BadInput(
            "the loss depends on none of the weights",
            "its forward cuts off gradients; use weights or activations",
        )
    return {n: by_id[id(p)] for n, p in params.items()}


def _along(tensor: Tensor, dim: int) -> Array:
    rest = [d for d in range(tensor.dim()) if d != dim]
    out = tensor.detach()
    return (out.sum(rest, dtype=torch.float64) if rest else out.double()).cpu().numpy()
