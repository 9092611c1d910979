"""How many elements of each dimension stay after a cut: asked thousands of times while planning."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from surgeon.axes import Dim, Leaf
from surgeon.couple import Coupling
from surgeon.graph import Value

Mask = NDArray[np.bool_]


class Extents:
    """Dimensions are products of leaves, and a leaf is known by its number here: `of`, then `after`."""

    def __init__(self, coupling: Coupling) -> None:
        self._label = coupling.classes.label
        self._dims = coupling.dims
        self._leaves: list[Leaf] = []
        self._index: dict[int, int] = {}

    def of(self, value: Value, which: int | None = None) -> list[int]:
        """Numbers of the leaves of one dimension of a value, or of all of them."""
        dims = self._dims[value] if which is None else (self._dims[value][which],)
        return self.refs(dims)

    def refs(self, dims: Iterable[Dim]) -> list[int]:
        """Numbers of the leaves of these dimensions."""
        return [self._number(leaf) for dim in dims for leaf in dim]

    def after(self, removed: Mask) -> list[int]:
        """Size of every leaf, by its number, once the classes `removed` are gone."""
        return [
            leaf.size
            if leaf.ids is None
            else leaf.size - int(np.count_nonzero(removed[self._label[leaf.ids]]))
            for leaf in self._leaves
        ]

    def _number(self, leaf: Leaf) -> int:
        if id(leaf) not in self._index:
            self._index[id(leaf)] = len(self._leaves)
            self._leaves.append(leaf)
        return self._index[id(leaf)]


def product_of(sizes: list[int], refs: Iterable[int]) -> int:
    """Elements of a product of leaves."""
    n = 1
    for i in refs:
        n *= sizes[i]
    return n
