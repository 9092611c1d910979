"""A slim module whose forward is tried: recorded, and laid beside the planned one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from surgeon.cut.fits import Misfit, misfit, written
from surgeon.cut.lacking import Lacking, lacking, stable
from surgeon.cut.sizes import Sizes
from surgeon.cut.stray import stray
from surgeon.errors import BadInput
from surgeon.graph import Graph
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record_as, record_until_failed


@dataclass
class Attempt:
    """A slim module and what it is to be. Where it followed the cut, `lacks` is what its scales lack, and
    `certain` whether that is seen without numbers: not where ops depend on the data."""

    slim: nn.Module
    inputs: Inputs
    sizes: Sizes
    lacks: Lacking = field(default_factory=dict)
    certain: bool = True

    def misfit(self, *, strict: bool = False) -> Misfit | None:
        """Where the forward is not the planned one; scales that follow a width are let pass.

        strict: op by op even where ops depend on the data, so that what fits is certain.
        """
        original = self.sizes.coupling.graph
        try:
            after = self._record(self.inputs)
        except BadInput as error:
            failure = error.message.split("\n")[0].removeprefix("the model fails in forward: ")
            return Misfit(f"its own forward fails on the cut tensors: {failure}")
        lacks = lacking(original, after)
        if lacks and not original.on_meta:
            lacks = self._stable(lacks, after)
        found = misfit(original, after, self.sizes, frozenset(lacks))
        self.certain = found is None
        if found is not None and not strict and not original.on_meta:
            why = stray(original, after, self.sizes)
            found = Misfit(why) if why else None
        if found is None:
            self.lacks = lacks
        return found

    def written(self) -> str | None:
        """What to write in forward, where it is a size in its code that keeps it from following."""
        original = self.sizes.coupling.graph
        part = record_until_failed(self.slim, self.inputs, on_meta=original.on_meta)
        return written(original, part, self.sizes)

    def _stable(self, lacks: Lacking, after: Graph) -> Lacking:
        try:
            return stable(lacks, after, self._record(self.inputs.map(_otherwise)))
        except BadInput:  # where it takes no other data, all of them may be the data's
            return {}

    def _record(self, inputs: Inputs) -> Graph:
        original = self.sizes.coupling.graph
        training = original.training is not None
        return record_as(self.slim, inputs, on_meta=original.on_meta, training=training)


def _otherwise(tensor: Tensor) -> Tensor:
    """Other data of the same kind: noise added to floats, integers turned round."""
    if tensor.is_floating_point():
        return tensor + torch.rand_like(tensor)
    return tensor.flip(tuple(range(tensor.dim())))
