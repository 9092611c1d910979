"""Groups measured one by one: each alone, at every ratio, on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from surgeon.grouping import Group
from surgeon.heal.consumers import Consumer, consumers_of
from surgeon.heal.curves import Bench
from surgeon.heal.examples import Examples
from surgeon.heal.removal import removal
from surgeon.heal.spool import Spool
from surgeon.score.batches import Sample
from surgeon.sensitivity.options import Sensing, gone_at
from surgeon.sensitivity.record import Line, Point
from surgeon.trace.shell import shell


@dataclass(frozen=True)
class Seen:
    """Where a run is, for who watches it: points done of all, the group that is measured, whether this was
    its last point."""

    done: int
    total: int
    group: str
    ends: bool


Watch = Callable[[Seen], None]


class Looks:
    """A network and its examples, made ready to be measured.

    groups: those that are measured, in order. scores: of each by name; the lowest go first where
    `how.criterion` is named. data: batches, and where they are put aside. `dense`: accuracy of the network as it is, empty without labels.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        scores: Mapping[str, NDArray[np.float64]],
        data: tuple[Iterable[Sample], Spool],
        how: Sensing,
    ) -> None:
        self.groups, self._scores, self._how = groups, scores, how
        self._model = shell(
            model, torch.clone
        ).eval()  # its weights are put aside while it is looked at
        self.examples = Examples(data[0], data[1], self._model)
        self._bench = Bench(self._model, self.examples, data[1])
        self.dense = self._bench.dense

    def lines(self, known: Collection[str], watch: Watch | None) -> Iterator[Line]:
        """Every group that is not `known`, as soon as it is measured."""
        left = [g for g in self.groups if g.name not in known]
        consumers = self._consumers(left)
        each = len(self._how.ratios)
        done, total = each * (len(self.groups) - len(left)), each * len(self.groups)
        told = watch or (lambda _: None)
        for group in left:
            points: list[Point] = []
            for point in self._points(group, consumers):
                points.append(point)
                done += 1
                if len(points) < each:
                    told(Seen(done, total, group.name, False))
            yield Line(group.name, group.size, group.kind, group.inexact is None, tuple(points))
            told(Seen(done, total, group.name, True))  # by now it is kept

    def _consumers(self, groups: Sequence[Group]) -> Mapping[str, Consumer]:
        if not groups or not (self._how.fit or self._how.criterion is None):
            return {}
        return consumers_of(self._model, groups, self.examples, self._how.seed)

    def _points(self, group: Group, consumers: Mapping[str, Consumer]) -> Iterator[Point]:
        how = self._how
        gone = {ratio: gone_at(group.size, ratio) for ratio in how.ratios}
        marks = tuple(sorted(set(gone.values())))
        start = self._scores[group.name]
        found = removal(group, consumers, marks, start, free=how.criterion is None)
        for ratio, count in gone.items():
            patches = found.patches[count] if how.fit else {}
            look = self._bench.look(group, found.order[:count].tolist(), patches)
            top = look.accuracy
            yield Point(ratio, count, look.error, top.get("top1"), top.get("top5"))
