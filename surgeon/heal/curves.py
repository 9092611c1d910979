"""What a network's outputs lose when one group alone is cut: measured, with its consumers fitted anew.

The dense network is run with the group's channels silenced where they are made and the consumers' patched
weights in place. An output's loss is its mean square change relative to its variance over examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.grouping import Group
from surgeon.heal.examples import Call
from surgeon.heal.layers import Layer
from surgeon.heal.outputs import numbers, put
from surgeon.heal.removal import Removal
from surgeon.heal.running import running
from surgeon.heal.spool import Spool
from surgeon.heal.watch import Watch
from surgeon.metrics.accuracy import Accuracy, are_classes
from surgeon.metrics.reconstruction import OutputError
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_tensors

SHARES = (0.125, 0.25, 0.5, 0.75, 0.9)
MOST = 1e12  # the loss of outputs that are no numbers any more, so that sums of losses are


def marks_of(size: int) -> tuple[int, ...]:
    """Numbers of removed channels at which a group of this size is measured."""
    return tuple(sorted({min(max(round(size * s), 1), size - 1) for s in SHARES if size > 1}))


@dataclass(frozen=True)
class Look:
    """What a group's channels are worth. error: of the outputs (infinite where they are no numbers); accuracy:
    top1 and top5, empty where there are no labels that are classes."""

    error: float
    accuracy: Mapping[str, float]


class Bench:
    """Runs of the dense network with some weights replaced; all of its state is put back after each."""

    def __init__(self, model: nn.Module, calls: Iterable[Call], spool: Spool) -> None:
        self.model, self.state = model, named_tensors(model)
        self.calls = list(calls)
        self.want = [put(spool, self._run(call.inputs, {})) for call in self.calls]

    @property
    def dense(self) -> Mapping[str, float]:
        """The accuracy of the network as it is."""
        found = Accuracy()
        for call, want in zip(self.calls, self.want, strict=True):
            _add(found, [s.get() for s in want], call)
        return found.as_dict() if found.labels else {}

    def loss(
        self, group: Group, gone: Sequence[int], patches: Mapping[str, tuple[Tensor, Tensor]]
    ) -> float:
        """The outputs' loss without the channels `gone` of a group."""
        return self.look(group, gone, patches).error

    def look(
        self, group: Group, gone: Sequence[int], patches: Mapping[str, tuple[Tensor, Tensor]]
    ) -> Look:
        """The same, and the accuracy that is left."""
        error, accuracy = OutputError(), Accuracy()
        with self._silenced(group, gone):
            for call, want in zip(self.calls, self.want, strict=True):
                got = self._run(call.inputs, patches)
                error.add([s.get() for s in want], got)
                _add(accuracy, got, call)
        lost = error.value if isfinite(error.value) else inf
        return Look(lost, accuracy.as_dict() if accuracy.labels else {})

    def _run(self, inputs: Inputs, patches: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
        def before(_number: int, layer: Layer) -> None:
            if layer.name in patches:
                saved[layer.name] = layer.matrix.clone()
                layer.put(patches[layer.name][0][None])

        def after(_number: int, layer: Layer, out: Tensor) -> None:
            if layer.name in saved:
                layer.put(saved.pop(layer.name))
                shift = patches[layer.name][1].to(out.dtype)
                out += shift.view(-1, *[1] * (out.dim() - 2)) if layer.conv else shift

        saved: dict[str, Tensor] = {}
        with running(self.model), Watch(self.model, before, after):
            return numbers(inputs.run(self.model))

    @contextmanager
    def _silenced(self, group: Group, gone: Sequence[int]) -> Any:
        """Rows that make these channels are zero, and so are norms along them."""
        chosen = torch.zeros(group.size, dtype=torch.bool)
        chosen[list(gone)] = True
        saved = []
        with torch.no_grad():
            for m in group.members:
                if m.role not in ("makes", "along") or m.state.endswith("running_var"):
                    continue
                tensor = self.state[m.state]
                at = torch.from_numpy(m.at)[chosen[torch.from_numpy(m.channel)]]
                saved.append((tensor, m.dim, at, tensor.index_select(m.dim, at).clone()))
                tensor.index_fill_(m.dim, at, 0)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, dim, at, old in reversed(saved):
                    tensor.index_copy_(dim, at, old)


def _add(accuracy: Accuracy, outputs: Sequence[Tensor], call: Call) -> None:
    first = outputs[0] if outputs else None
    if first is not None and call.labels is not None and are_classes(first, call.labels):
        accuracy.add(first, call.labels)


def curve(bench: Bench, group: Group, removal: Removal) -> list[tuple[int, float]]:
    """[(channels gone, loss)], from nothing on; never falling."""
    points, worst = [(0, 0.0)], 0.0
    for count, patches in removal.patches.items():
        worst = max(worst, min(bench.loss(group, removal.order[:count].tolist(), patches), MOST))
        points.append((count, worst))
    return points
