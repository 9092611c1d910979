"""A slim module whose forward is tried: recorded, and laid beside the planned one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from surgeon.cut.fits import (
    Misfit,
    Off,
    asks_otherwise,
    first_off,
    following,
    misfit,
    narrowed_to_one,
    written,
)
from surgeon.cut.lacking import Lacking, lacking, stable
from surgeon.cut.sizes import Sizes
from surgeon.cut.stray import stray
from surgeon.cut.unlike import unlike
from surgeon.errors import FAILS, BadInput
from surgeon.graph import Graph, Node, Path
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import Stopped, record_as


@dataclass
class Attempt:
    """A slim module and what it is to be. Where it followed the cut, `lacks` is what its scales lack, and
    `certain` whether that is seen without numbers: not where ops depend on the data. Where it did not, `furthest` is
    where the trial ended that came to the last node of the original: attributes that were set may have led past the first."""

    slim: nn.Module
    inputs: Inputs
    sizes: Sizes
    lacks: Lacking = field(default_factory=dict)
    certain: bool = True
    paths: tuple[Path, ...] = ()  # that are looked at beside those of the original's graph
    disproved: bool = False  # whether the oracle said that it is wrong
    furthest: Misfit | None = None

    def misfit(self, *, strict: bool = False, brief: bool = False) -> Misfit | None:
        """Where the forward is not the planned one; scales that follow a width are let pass.

        strict: op by op even where ops depend on the data, so that what fits is certain. brief: what comes behind the first op that
        is not the planned one is not run, where ops tell.
        """
        original = self.sizes.coupling.graph
        tell = (strict or original.blind) and not (original.turns or self.paths)
        try:
            found = self._misfit(
                strict, following(original, self.sizes) if brief and tell else None
            )
        except Off as error:
            found = error.misfit
        return found and self._further(found)

    def _further(self, found: Misfit) -> Misfit:
        before = self.furthest.at if self.furthest else None
        if found.at is not None and (before is None or found.at > before):
            self.furthest = found
        return found

    def came(self) -> int | None:
        """The original's node that the forward came to; None where it is the planned one, -1 where no node can be named."""
        found = self.misfit(brief=True)
        return None if found is None else -1 if found.at is None else found.at

    def _misfit(self, strict: bool, look: Callable[[Node], None] | None) -> Misfit | None:
        original = self.sizes.coupling.graph
        try:
            after = self._record(self.inputs, look=look)
        except Stopped as error:
            failure = error.message.split("\n")[0].removeprefix(FAILS)
            why = f"its own forward fails on the cut tensors: {failure}"
            return Misfit(why, at=self._stopped_at(error.ran))
        lacks = lacking(original, after)
        if lacks and not original.blind:
            lacks = self._stable(lacks, after)
        found = misfit(original, after, self.sizes, frozenset(lacks))
        fits = found is None and not original.turns
        self.certain = fits and not asks_otherwise(original, after, self.sizes)
        others = original.turns or self.paths
        if others if found is None else not (strict or original.blind):
            found = self._astray(after)
        if found is None and self.disproved:
            found = self._unlike(after)
        if found is None:
            self.lacks = lacks
        elif found.at is None:
            found = replace(found, at=first_off(original, after, self.sizes))
        return found

    def _astray(self, after: Graph) -> Misfit | None:
        """Where its paths leave those that are planned: of a forward whose ops data decide, and of several paths, no
        comparison op by op tells."""
        original = self.sizes.coupling.graph
        found = stray(original, after, self.sizes)
        if found is not None and after.turns and narrowed_to_one(self.sizes):
            # torch runs other ops there on dimensions of one; of other paths the oracle tells
            return stray(original, replace(after, nodes=after.run), self.sizes)
        return found

    def _unlike(self, after: Graph) -> Misfit | None:
        at = unlike(self.sizes.coupling.graph, after, self.sizes)
        return None if at is None else Misfit("a number in its code follows a width", at=at)

    def _stopped_at(self, ran: Graph) -> int | None:
        """The original's node that a copy did not run as planned before its forward failed."""
        original = self.sizes.coupling.graph
        at = first_off(original, ran, self.sizes)
        counted = at is not None and original.nodes[at].sees  # how much it found is the data's
        if (at is not None or ran.own is None) and not counted:
            return at
        astray = stray(original, ran, self.sizes)
        return _behind(original, ran) if astray is None or astray.at is None else astray.at

    def written(self, at: int | None) -> str | None:
        """What to write in forward, where it is a size in its code that keeps it from following: at this node."""
        original = self.sizes.coupling.graph
        try:
            part = record_as(self.slim, self.inputs, replace(original, training=None))
        except Stopped as error:
            part = error.ran
        return written(original, part, self.sizes, at)

    def _stable(self, lacks: Lacking, after: Graph) -> Lacking:
        try:
            return stable(lacks, after, self._record(self.inputs.map(_otherwise), turns=False))
        except BadInput:  # where it takes no other data, all of them may be the data's
            return {}

    def _record(
        self, inputs: Inputs, *, turns: bool = True, look: Callable[[Node], None] | None = None
    ) -> Graph:
        original = self.sizes.coupling.graph
        along = (*original.turns, *self.paths) if turns else ()
        return record_as(self.slim, inputs, replace(original, turns=along), look)


def _behind(original: Graph, ran: Graph) -> int | None:
    """The original's node behind what its cut copy came to before it failed: of its other paths the last that runs the line, of
    the run on the inputs as given the same time that it did."""
    mine = [list(nodes) for _, nodes in groupby(ran.nodes, _line)]
    if not mine:
        return None
    line = mine[-1]
    blocks = (list(nodes) for _, nodes in groupby(original.nodes, _line))
    starts = [b[0].index for b in blocks if _line(b[0]) == _line(line[0])]
    if ran.own is None:
        starts = starts[: sum(_line(b[0]) == _line(line[0]) for b in mine)]
    return min(starts[-1] + len(line), len(original.nodes) - 1) if starts else None


def _line(node: Node) -> tuple[str, str]:
    return node.module, node.source


def _otherwise(tensor: Tensor) -> Tensor:
    """Other data of the same kind: noise added to floats, integers turned round."""
    if tensor.is_floating_point():
        return tensor + torch.rand_like(tensor)
    return tensor.flip(tuple(range(tensor.dim())))
