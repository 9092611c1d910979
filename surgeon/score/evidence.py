"""All that a criterion may read: the weights, chance and, where data were given, what the original does on them.

Gathered when it is first asked for, for all groups in one pass over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from surgeon.couple import Coupling
from surgeon.errors import BadInput
from surgeon.graph import Value
from surgeon.grouping import Group
from surgeon.rules import lookup
from surgeon.score.batches import Batches, Material, Sample
from surgeon.score.points import Finder, Point
from surgeon.score.slopes import Array, Place, Slopes, Source, curvature, slopes
from surgeon.score.statistics import ByClass
from surgeon.score.watch import Watched
from surgeon.score.weights import Weights
from surgeon.trace.tensors import output_tensors

S = TypeVar("S")
Key = tuple[object, ...]


@dataclass(frozen=True)
class Original:
    """The network being scored, how its channels are coupled, and the user's data and loss."""

    model: nn.Module
    coupling: Coupling
    material: Material


class Evidence(Weights):
    """Weights, and what is gathered from real runs. Arrays are float64; the model is only read."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        by: str = "group",
        seed: int = 0,
        original: Original | None = None,
    ) -> None:
        super().__init__(state, by, seed)
        self._original = original
        self._statistics: dict[Any, dict[Key, Any]] = {}
        self.asked = ""  # the criterion that is being computed, for messages

    @property
    def original(self) -> Original:
        """The network; BadInput where only weights are known."""
        if self._original is None:
            raise BadInput(
                f"criterion '{self.asked}' reads the network, and only weights were given"
            )
        return self._original

    @property
    def model(self) -> nn.Module:
        """The network being scored. Read only."""
        return self.original.model

    @property
    def data(self) -> Batches:
        """The user's data; BadInput where there are none."""
        data = self._original.material.data if self._original else None
        if data is None:
            raise no_data(self.asked, "data")
        return data

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(g for g in self.original.coupling.groups if g.why_not is None)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.original.coupling)

    @cached_property
    def _points(self) -> dict[str, tuple[Point, ...]]:
        """Of every group, the first kind of points that a run on the first batch reaches."""
        kinds = {g.name: self._finder.points(g) for g in self.groups}
        every = {_key(p): p for found in kinds.values() for points in found for p in points}
        watched = Watched(self.model, self.original.coupling.graph, every.values())
        reached: set[Key] = set()
        watched.run(next(iter(self.data)).inputs, lambda p, _: reached.add(_key(p)))
        live = {
            name: [tuple(p for p in points if _key(p) in reached) for points in found]
            for name, found in kinds.items()
        }
        return {name: next((t for t in found if t), ()) for name, found in live.items()}

    def points(self, group: Group) -> tuple[Point, ...]:
        """Where the group's channels are seen in a forward: at the layers that take them; where none does, at those
        that make them; else wherever they are used."""
        return self._points.get(group.name, ())

    @cached_property
    def scales(self) -> frozenset[Place]:
        """Dimensions of state that norms multiply by: (state, dim)."""
        coupling, found = self.original.coupling, set()
        for node in coupling.graph.forward:
            rule = lookup(node.op)
            if rule is None or rule.family != "normalization" or rule.choose is None:
                continue
            at = rule.choose(node).at or (0, 1)
            scale = node.arg(at[1]) if len(at) > 1 else None
            if isinstance(scale, Value) and scale in self._finder.of_state:
                names = self._finder.of_state[scale]
                found |= {(n, node.index) for n in names}
        return frozenset((u.state, u.dim) for u in coupling.uses if (u.state, u.node) in found)

    def seen(self, group: Group, kind: Callable[[int], S]) -> list[tuple[Point, S]]:
        """The group's points with what was seen there; BadInput where the data reach none."""
        if kind not in self._statistics:
            self._statistics[kind] = self._gathered(kind)
        return self._known(self._statistics[kind], group)

    def classes(self, group: Group) -> list[tuple[Point, ByClass]]:
        """As `seen`, of examples by their class: the label, else what the network itself says."""
        return self._known(self._by_class, group)

    def _known(self, table: Mapping[Key, S], group: Group) -> list[tuple[Point, S]]:
        found = [(p, table[_key(p)]) for p in self.points(group) if _key(p) in table]
        if not found:
            raise BadInput(
                f"the data never reach the channels of {group.name}: criterion '{self.asked}' cannot rank them",
                "give data that the forward runs as it ran on the example input, or --ignore the layer",
            )
        return found

    def _gathered(self, kind: Callable[[int], S]) -> dict[Key, S]:
        """One pass over the data; points where the same numbers are share what is kept."""
        first = {_key(p): p for points in self._points.values() for p in points}
        table: dict[Key, S] = {}
        watched = Watched(self.model, self.original.coupling.graph, first.values())

        def see(point: Point, tensor: Tensor) -> None:
            if _key(point) not in table:
                table[_key(point)] = kind(point.extent)
            table[_key(point)].add(tensor)  # type: ignore[attr-defined]

        for sample in self.data:
            watched.run(sample.inputs, see)
        return table

    @cached_property
    def _by_class(self) -> dict[Key, ByClass]:
        first = {_key(p): p for points in self._points.values() for p in points}
        table: dict[Key, ByClass] = {}
        watched = Watched(self.model, self.original.coupling.graph, first.values())
        for sample in self.data:
            for one in sample.singles():
                kept: list[tuple[Point, Tensor]] = []
                said = watched.run(
                    one.inputs, lambda p, t, kept=kept: kept.append((p, _example_mean(t)))
                )
                label = _class_of(one, said)
                for point, mean in kept:
                    table.setdefault(_key(point), ByClass(point.extent)).add(mean, label)
        return table

    @cached_property
    def slopes(self) -> Slopes:
        """Gradients of the weights, example by example."""
        return slopes(self._source, self.data)

    @cached_property
    def curvature(self) -> dict[Place, Array]:
        """w^2 h / 2 of the weights at each position, h the diagonal of the Hessian: [extent]."""
        return curvature(self._source, self.data)

    @property
    def _source(self) -> Source:
        return Source(self.model, self.groups, self.original.material.loss, self.seed)


def no_data(name: str, reads: str) -> BadInput:
    """A criterion without what it reads."""
    return BadInput(
        f"criterion '{name}' needs data: it reads {reads}",
        "give data=, an iterable of batches (--data on the command line), or a criterion that reads weights alone: l2, fpgm",
    )


def _key(point: Point) -> Key:
    return (point.source, point.dim)


def _example_mean(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1]).double().mean(0, keepdim=True)


def _class_of(one: Sample, said: object) -> int:
    if one.labels is not None:
        labels = torch.as_tensor(one.labels)
        if labels.numel() != 1 or labels.is_floating_point():
            raise BadInput(
                "mutual information takes one whole number as the label of an example",
                "leave the labels out: then the network's own prediction is the class",
            )
        return int(labels)
    logits = getattr(said, "logits", None)
    outs = [
        t for t in output_tensors(logits if logits is not None else said) if t.is_floating_point()
    ]
    if not outs or outs[0].dim() < 2:
        raise BadInput(
            "mutual information takes the network's prediction as the class, and its first output has none",
            "give labels: data of (inputs, labels) with labelled=True",
        )
    return int(outs[0].reshape(-1, outs[0].shape[-1]).mean(0).argmax())
