"""What every tensor becomes after a cut, and the calls whose arguments follow: an op's, before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surgeon.axes import Dim
from surgeon.couple import Coupling
from surgeon.graph import Node, Value

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sizes:
    """Shapes and positions once the classes `removed` are gone."""

    coupling: Coupling
    removed: Mask
    _shapes: dict[Value, tuple[int, ...]] = field(default_factory=dict)
    planned: dict[Node, Call] = field(default_factory=dict)  # what `fits.wanted` said before

    def shape(self, value: Value) -> tuple[int, ...]:
        """New shape of a value."""
        known = self._shapes.get(value)
        if known is None:
            dims = self.coupling.dims.get(value)
            known = value.shape
            if dims is not None:
                known = tuple([self.extent(d) for d in dims])
            self._shapes[value] = known
        return known

    def extent(self, dim: Dim) -> int:
        """New size of a dimension."""
        return self.coupling.kept_size(dim, self.removed)

    def kept(self, value: Value, dim: int) -> Ids:
        """Old positions of a dimension that stay."""
        dims = self.coupling.dims.get(value)
        if dims is None:
            return np.arange(value.shape[dim])
        return self.coupling.kept(dims[dim], self.removed)

    def factor(self, node: Node, letter: str) -> int:
        """New size of a factor of a node's rule."""
        return self.extent(self.coupling.bound[node.index][letter])

    def taken(self, value: Value, dim: int, index: Ids) -> Ids:
        """Positions `index` of the old dimension, as positions of the new one; what is gone is left out."""
        kept = self.kept(value, dim)
        place = np.full(value.shape[dim], -1, np.int64)
        place[kept] = np.arange(len(kept))
        new = place[index]
        return new[new >= 0]


@dataclass(frozen=True)
class Call:
    """An op's arguments, with the values behind its tensors: recorded, or of a program's node.

    `nodes` are the recorded ops it ran; `args` may hold anything where a size was computed.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x: Value | None
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]

    def arg(self, position: int, default: Any = None) -> Any:
        """Positional argument or its default."""
        return self.args[position] if position < len(self.args) else default

    def put(self, position: int, value: Any, op: str | None = None) -> Call:
        """The same call with one argument changed."""
        args = (*self.args[:position], value, *self.args[position + 1 :])
        return Call(op or self.op, args, self.kwargs, self.x, self.outputs, self.nodes)


@dataclass(frozen=True)
class Positions:
    """A constant index, to be stored as a tensor where the call had one."""

    index: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A constant tensor, to be stored where the call made one."""

    tensor: Tensor


@dataclass(frozen=True)
class Scaled:
    """A size that the program computes (batch x heads x windows): times `new`, over `old`."""

    size: Any
    new: int
    old: int
