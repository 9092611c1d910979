"""A penalty on the weights of a network as it is now: its gradients are added to those of the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from surgeon.couple import Coupling
from surgeon.grouping import Group, Member
from surgeon.loop.penalties import Known, Pressed
from surgeon.score import Evidence, Material, Original
from surgeon.trace.folding import read_state
from surgeon.trace.tensors import named_state


class Pressure:
    """Of one network, as it was coupled last; `chosen` are the channels of each group that go next."""

    def __init__(
        self, model: nn.Module, coupling: Coupling, penalty: Known, chosen: Mapping[str, Tensor]
    ) -> None:
        self._penalty, self._chosen = penalty, chosen
        own = named_state(model)
        evidence = Evidence(read_state(model), original=Original(model, coupling, Material()))
        self._weights = {
            n: t for n, t in own.items() if isinstance(t, nn.Parameter) and t.is_floating_point()
        }
        self._groups = [g for g in coupling.groups if g.name in chosen and self._of(g)]
        self._scales = evidence.scales
        self._calls = 0

    def _of(self, group: Group) -> list[Member]:
        return [m for m in group.members if m.state in self._weights]

    def add(self, strength: float) -> Tensor:
        """Add strength x the penalty's gradient to each weight's own; gives strength x the penalty."""
        self._calls += 1
        weights = [w for w in self._weights.values() if w.requires_grad]
        with torch.enable_grad():
            parts = [self._penalty.function(p) for p in self._pressed()]
            if not parts or not weights:
                return torch.zeros(())
            total = strength * torch.stack([p.float() for p in parts]).sum()
        if not total.requires_grad:
            return total
        for weight, slope in zip(
            weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True
        ):
            if slope is not None:
                weight.grad = slope if weight.grad is None else weight.grad + slope
        return total.detach()

    def _pressed(self) -> Iterator[Pressed]:
        for group in self._groups:
            chosen = self._chosen[group.name]
            zeros = torch.zeros(group.size, device=chosen.device)
            squares, elements, scales, scaled = zeros, zeros, zeros, False
            for member in self._of(group):
                weight = self._weights[member.state]
                rows = (
                    weight.movedim(member.dim, 0).flatten(1)
                    if weight.dim() > 1
                    else weight[:, None]
                )
                at = torch.as_tensor(member.at, device=weight.device)
                channel = torch.as_tensor(member.channel, device=weight.device)
                own = rows[at].float()
                squares = squares.to(own.device).index_add(0, channel, own.square().sum(1))
                count = torch.full_like(channel, rows.shape[1], dtype=torch.float32)
                elements = elements.to(own.device).index_add(0, channel, count)
                if (member.state, member.dim) in self._scales:
                    scaled = True
                    scales = scales.to(own.device).index_add(0, channel, own.abs().sum(1))
            yield Pressed(
                squares,
                elements,
                scales if scaled else None,
                chosen.to(squares.device),
                self._calls,
            )
