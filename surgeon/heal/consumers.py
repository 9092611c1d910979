"""What takes a group's channels: layers of the dense network, and second moments of their data.

One watched run in batches gives, for each layer that contracts channels that may go, the sums of products of
its data. Memory: terms^2 a layer, whatever the number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgeon.grouping import Group
from surgeon.heal.examples import Examples
from surgeon.heal.layers import Layer
from surgeon.heal.rows import CHUNK, Draw
from surgeon.heal.running import running
from surgeon.heal.watch import Track, Watch
from surgeon.score.statistics import Gram

ROWS = 8192  # of each layer's data, over all examples


@dataclass(eq=False)
class Consumer:
    """A layer that takes channels: `weight` [outputs, terms], and second moments of its `data` [rows, terms].

    `kernel`: terms of one input position. `scale` [outputs]: what the batch norm behind it multiplies its
    result by, ones where there is none.
    """

    number: int
    name: str
    in_dim: int
    kernel: int
    weight: Tensor
    scale: Tensor
    data: Gram

    @property
    def mean(self) -> Tensor:
        """[terms]"""
        return self.data.sum / max(self.data.count, 1)


def consumers_of(
    model: nn.Module, groups: Sequence[Group], examples: Examples, seed: int = 0
) -> dict[str, Consumer]:
    """Weight name -> the layer that takes channels of one of these groups with it.

    Layers whose parts share no inputs (grouped convolutions) and weights that are used twice are left out.
    """
    taken = {(m.state, m.dim) for g in groups for m in g.members if m.role == "takes"}
    found: dict[int, Consumer] = {}
    draw = Draw(ROWS, examples.count, seed)

    def before(number: int, layer: Layer) -> None:
        if (layer.name, layer.in_dim) not in taken or layer.groups > 1:
            return
        if number not in found:
            weight = layer.matrix[0].double()
            kernel = weight.shape[1] // _inputs(layer)
            ones = torch.ones(len(weight), dtype=torch.float64)
            found[number] = Consumer(
                number, layer.name, layer.in_dim, kernel, weight, ones, Gram(weight.shape[1])
            )

    def after(number: int, layer: Layer, out: Tensor) -> None:
        total = out.numel() // out.shape[1 if layer.conv else -1]
        at = draw.rows(number, total, count) if number in found else None
        for part in at.split(CHUNK) if at is not None else ():
            found[number].data.add(layer.data(part)[:, 0])

    def normed(track: Track) -> None:
        if track.layer in found and track.scale is not None:
            found[track.layer].scale = track.scale.double()

    for call in examples:
        count = call.count
        with running(model), Watch(model, before, after, normed=normed):
            call.inputs.run(model)
    names = [c.name for c in found.values()]
    return {c.name: c for c in found.values() if names.count(c.name) == 1}


def _inputs(layer: Layer) -> int:
    return layer.weight.shape[1] if layer.conv else layer.x.shape[-1]


def blocks(group: Group, consumers: Mapping[str, Consumer]) -> dict[str, Tensor]:
    """Weight name -> [channels, terms of a channel]: which terms of the consumer each channel of the group is."""
    out = {}
    for member in group.members:
        consumer = consumers.get(member.state)
        if consumer is None or member.role != "takes" or member.dim != consumer.in_dim:
            continue
        order = torch.from_numpy(member.channel).argsort(stable=True)
        at = torch.from_numpy(member.at)[order]
        if len(at) % group.size:
            continue
        terms = at[:, None] * consumer.kernel + torch.arange(consumer.kernel)
        out[consumer.name] = terms.reshape(group.size, -1)
    return out
