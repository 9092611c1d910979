"""A criterion by trying: each channel is zeroed in a copy of the original, which then runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surgeon.grouping import Group, Member
from surgeon.score.evidence import Evidence
from surgeon.score.loss import loss_of
from surgeon.score.reduce import Array
from surgeon.score.registry import criterion
from surgeon.score.watch import to_device
from surgeon.trace.mode import forward_mode
from surgeon.trace.shell import shell
from surgeon.trace.tensors import named_tensors, output_tensors


@criterion(
    "sensitivity", reads="outputs of masked runs", paper="Mozer and Smolensky 1989, Skeletonization"
)
def sensitivity(group: Group, evidence: Evidence) -> Array:
    """What the network loses when one channel is zeroed in all tensors of its group: one run a channel, on the first batch.

    [channels]: with labels or a loss of the user's, the rise of the loss; else the squared distance of the outputs relative to
    their mean square. Where channels mix (layer norm over them), zeroed is not removed: it is an approximation.
    """
    run = _Run(evidence)
    return np.array([run.without(group, channel) for channel in range(group.size)])


class _Run:
    """A copy that is run with parts of its state at zero."""

    def __init__(self, evidence: Evidence) -> None:
        self.loss, self.sample = evidence.original.material.loss, next(iter(evidence.data))
        self.twin: nn.Module = shell(evidence.model, torch.clone).eval()
        self.state = named_tensors(self.twin)
        self.inputs = to_device(self.sample.inputs, self.state)
        self.whole = self._run()

    def without(self, group: Group, channel: int) -> float:
        """The loss, or the distance, without a channel."""
        with torch.no_grad(), _zeroed(self.state, group.members, channel):
            out = self._run()
        if isinstance(out, float):
            return out - self.whole
        return sum(_distance(a, b) for a, b in zip(self.whole, out, strict=True))

    def _run(self) -> Any:
        with forward_mode(self.twin):
            out = self.inputs.map(torch.clone).run(self.twin)
            if self.loss is None and self.sample.labels is None:
                return [t.double() for t in output_tensors(out) if t.is_floating_point()]
            return float(loss_of(out, self.sample.labels, self.loss, torch.Generator()))


def _distance(a: Tensor, b: Tensor) -> float:
    scale = float(a.square().mean()) or 1.0
    return float((a - b).square().mean()) / scale


@contextmanager
def _zeroed(state: dict[str, Tensor], members: tuple[Member, ...], channel: int) -> Iterator[None]:
    before = []
    for m in members:
        at = m.at[m.channel == channel]
        if len(at):
            tensor = state[m.state]
            index = torch.from_numpy(at).to(tensor.device)
            before.append((tensor, m.dim, index, tensor.index_select(m.dim, index)))
            tensor.index_fill_(m.dim, index, 0)
    try:
        yield
    finally:
        for tensor, dim, index, old in reversed(before):
            tensor.index_copy_(dim, index, old)
