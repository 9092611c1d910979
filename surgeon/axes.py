"""The algebra of dimensions: which elements of which axes are the same, and so go together.

A tensor dimension is a *row-major product of leaves*; a leaf is an array of element ids, or an
opaque extent that is never cut (batch, spatial). Sums need no structure of their own: a concat is a
concatenation of id arrays, a slice or a flip is indexing, and equality is an edge list. Only
products do: an id array of a*b elements seen as P x Q loses element (i, j) when P[i] or Q[j] goes.

    dim 192 of a fused qkv  --reshape(3, 4, 16)-->  (P3,) (H4,) (D16,)    one tree on one id array
    dims (C64,) (opaque 25) --flatten-->            one dim of two leaves (C64, opaque 25)

This file imports no torch and names no op.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from surgeon.classes import Classes, Product, Said, Unread, Why, no_common_cut, solve

Ids = NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Leaf:
    """`size` elements in a row: with ids, or opaque (`ids is None`: never cut, never tracked)."""

    size: int
    ids: Ids | None = None
    parts: tuple[Leaf, Leaf] | None = None  # outer, inner: this array seen as a product
    root: Leaf | None = None  # union-find over arrays that are equal throughout
    where: int = -1  # the caller's mark when it was made
    ranked: str = ""  # of elements in an order of their own: why a part of them cannot be taken
    why: str = ""  # of an opaque extent: why what meets it stays, where that is not plain


ZERO = "pad"  # labels of elements that the code itself makes: zeros, and what is not zero
POSITION = "position"  # a number for each place
MADE_UP = (ZERO, POSITION, "fill", "constant", "expand", "repeat", "eye")
_ZERO, _OTHER = 1, 2

Dim = tuple[Leaf, ...]  # row-major; the empty product is a dimension of size 1
Dims = tuple[Dim, ...]


@dataclass(frozen=True)
class Axis:
    """A named run of fresh ids: [start, start + size). `label` is whatever the caller asked for."""

    start: int
    size: int
    label: object


def size_of(dim: Dim) -> int:
    """Number of elements of a dimension."""
    return prod(leaf.size for leaf in dim)


def is_opaque(dim: Dim) -> bool:
    """Whether no leaf of the dimension carries ids."""
    return all(leaf.ids is None for leaf in dim)


def opaque(size: int, why: str = "", where: int = -1) -> Dim:
    """A dimension that is never cut. why: what to say of what meets it; where: who made it."""
    return (Leaf(size, why=why, where=where),) if size != 1 else ()


@dataclass
class Algebra:
    """Collects what is known about elements; `solve` turns it into classes.

    `where` is the caller's mark for what it is looking at (a node); it is kept with every reason.
    """

    where: int = -1
    count: int = 0
    axes: list[Axis] = field(default_factory=list)
    _equal: list[tuple[Ids, Ids]] = field(default_factory=list)
    _frozen: list[tuple[Ids, Why]] = field(default_factory=list)
    _mixed: list[tuple[Ids, Why]] = field(default_factory=list)
    _products: list[Product] = field(default_factory=list)
    _read: dict[int, Ids] = field(default_factory=dict)  # by leaf
    _weighed: dict[int, Ids] = field(default_factory=dict)  # by leaf
    _unread: list[tuple[Ids, Why]] = field(default_factory=list)
    ties: list[tuple[Ids, ...]] = field(default_factory=list)  # runs that one split makes equal
    _interned: dict[bytes, Leaf] = field(default_factory=dict)
    _merged: dict[tuple[int, ...], Leaf] = field(default_factory=dict)
    _made: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))  # _ZERO, _OTHER
    _keep: list[Dim] = field(default_factory=list)  # keeps the ids of cache keys alive

    # --- making -------------------------------------------------------------------------------

    def fresh(self, size: int, label: object = None) -> Dim:
        """A new axis of `size` elements, all of which may be cut until something says no."""
        return (self._fresh_leaf(size, label),) if size != 1 else ()

    def run(self, size: int, label: object = None) -> Dim:
        """As `fresh`, but even a single element keeps its id: for a part of a concat."""
        return (self._fresh_leaf(size, label),) if size else ()

    def _fresh_leaf(self, size: int, label: object = None) -> Leaf:
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.axes.append(Axis(self.count, size, label))
        if label in MADE_UP:
            self._made = np.pad(self._made, (0, self.count + size - len(self._made)))
            self._made[self.count :] = _ZERO if label == ZERO else _OTHER
        self.count += size
        leaf = Leaf(size, ids, where=self.where)
        self._interned[ids.tobytes()] = leaf
        return leaf

    def _leaf(self, ids: Ids) -> Leaf:
        """The leaf of these very ids; equal arrays share one leaf, and so one tree of products."""
        key = ids.tobytes()
        leaf = self._interned.get(key)
        if leaf is None:
            leaf = self._interned[key] = Leaf(len(ids), ids)
        return leaf

    # --- saying -------------------------------------------------------------------------------

    def freeze(self, dim: Dim, why: str, other: int = -1) -> None:
        """No element of `dim` may be cut. other: the mark of a second place that the reason speaks of."""
        for leaf in dim:
            if leaf.ids is not None:
                self._frozen.append((leaf.ids, Why(why, self.where, other)))

    def freeze_at(self, dim: Dim, index: int, why: str) -> None:
        """Element `index` of `dim` may not be cut (its position is written in the code)."""
        for leaf in reversed(dim):
            index, here = divmod(index, leaf.size)
            if leaf.ids is not None:
                self._frozen.append((leaf.ids[here : here + 1], Why(why, self.where)))

    def read(self, dim: Dim) -> None:
        """An op computes with all of `dim`."""
        self._read.update((id(leaf), leaf.ids) for leaf in dim if leaf.ids is not None)

    def weigh(self, dim: Dim) -> None:
        """A weight makes these elements, or takes them: they are channels of a layer."""
        self._weighed.update((id(leaf), leaf.ids) for leaf in dim if leaf.ids is not None)

    def freeze_unread(self, dim: Dim, why: str) -> None:
        """Elements of `dim` that in the end no op computes with may not be cut."""
        for leaf in dim:
            if leaf.ids is not None:
                self._unread.append((leaf.ids, Why(why, self.where)))

    def mix(self, dim: Dim, why: str) -> None:
        """Cutting `dim` changes the result of what stays (norm statistics, softmax, mean)."""
        for leaf in dim:
            if leaf.ids is not None:
                self._mixed.append((leaf.ids, Why(why, self.where)))
                self._keep_made(leaf.ids, why)

    def add_up(self, dim: Dim, why: str) -> None:
        """An op sums over `dim` without a weight that could lose the same elements: what is zero adds nothing."""
        for leaf in dim:
            if leaf.ids is not None:
                self._keep_made(leaf.ids, why, zeros=False)

    def _keep_made(self, ids: Ids, why: str, zeros: bool = True) -> None:
        """What the code makes tells by its number, where it is mixed or added up before it meets a channel."""
        made = self._made_up(ids, zeros)
        if made.any():
            said = f"constants or copies that the code makes, where {why}"
            self._frozen.append((ids[made], Why(said, self.where)))

    def _made_up(self, ids: Ids, zeros: bool = True) -> NDArray[np.bool_]:
        """Which of these elements the code makes itself. zeros: those that are zero too."""
        known = ids < len(self._made)
        mask = np.zeros(len(ids), bool)
        mask[known] = self._made[ids[known]] >= (_ZERO if zeros else _OTHER)
        return mask

    def tie(self, runs: Sequence[Dim]) -> None:
        """The code that makes these runs (chunk) gives each as many elements as the others.

        Not a law: what is removed may break it, and then only that code no longer fits.
        """
        ids = tuple(np.concatenate([np.zeros(0, np.int64), *_all_ids(run)]) for run in runs)
        if len(ids) > 1 and all(len(run) for run in ids):
            self.ties.append(ids)

    def equate(self, a: Dim, b: Dim) -> None:
        """Element i of `a` is element i of `b`: they stay or go together. Sizes must agree."""
        if a is b or not a or not b:
            return
        left, right = list(reversed(a)), list(reversed(b))
        while left and right:
            x, y = left.pop(), right.pop()
            if x.size == y.size:
                self._equate_leaves(x, y)
            elif x.size % y.size == 0:
                outer, inner = self._split(x, y.size)
                left += [*reversed(inner), *reversed(outer)]
                right.append(y)
            elif y.size % x.size == 0:
                outer, inner = self._split(y, x.size)
                right += [*reversed(inner), *reversed(outer)]
                left.append(x)
            else:
                rest = (x, y, *left, *right)
                self.freeze(rest, f"{sizes(a)} channels meet {sizes(b)}: no cut keeps both whole")
                return

    def meet(self, a: Dim, b: Dim) -> Dim:
        """Equates both, and gives what is of both: channels, where one of them has what the code made."""
        self.equate(a, b)
        if (
            not len(self._made)
            or len(a) != 1
            or len(b) != 1
            or a[0].ids is None
            or b[0].ids is None
        ):
            return a
        made = self._made_up(a[0].ids)
        if len(made) != len(b[0].ids) or not made.any():
            return a
        both = self._leaf(np.where(made, b[0].ids, a[0].ids))
        self._equate_leaves(both, a[0])
        return (both,)

    def _equate_leaves(self, x: Leaf, y: Leaf) -> None:
        x, y = _root(x), _root(y)
        if x is y:
            return
        if x.ids is None or y.ids is None:
            said = _speaks((x, y)) or Leaf(1, why="meets a dimension that is never cut")
            self.freeze((x, y), said.why, said.where)
            return
        self._equal.append((x.ids, y.ids))
        x.root = y
        if x.parts is None:
            return
        if y.parts is None:
            y.parts = x.parts
        else:
            self.equate(x.parts, y.parts)

    # --- moving -------------------------------------------------------------------------------

    def reshape(self, dims: Sequence[Dim], shape: Sequence[int]) -> Dims:
        """The same elements in row-major order, seen in another shape.

        >>> a = Algebra(); c = a.fresh(64)
        >>> [sizes(d) for d in a.reshape([(), c, opaque(5), opaque(5)], [1, 1600])]
        ['1', '64*5*5']
        """
        if 0 in shape:
            return self._empty(dims, shape)
        leaves = [leaf for dim in dims for leaf in dim]
        return self._regroup(leaves, shape)

    def _empty(self, dims: Sequence[Dim], shape: Sequence[int]) -> Dims:
        """Of a tensor without elements: what is beside its empty dimensions is seen as ever, where there is as much of it."""
        full = [dim for dim in dims if size_of(dim)]
        if prod(map(size_of, full)) != prod(n for n in shape if n):
            for dim in dims:
                self.freeze(dim, "an empty tensor")
            return tuple(opaque(n, "meets an empty tensor") for n in shape)
        seen = iter(self.reshape(full, [n for n in shape if n]))
        return tuple(next(seen) if n else opaque(0) for n in shape)

    def _regroup(self, leaves: list[Leaf], shape: Sequence[int]) -> Dims:
        stack, out = leaves[::-1], []
        for size in shape:
            dim: list[Leaf] = []
            need = size
            while need > 1:
                leaf = stack.pop()
                if need % leaf.size == 0:
                    dim.append(leaf)
                    need //= leaf.size
                elif leaf.size % need == 0:
                    outer, inner = self._split(leaf, need)
                    stack += [*reversed(inner), *reversed(outer)]
                else:
                    return self._tangled(leaves, shape)
            out.append(tuple(dim))
        return tuple(out)

    def _tangled(self, leaves: list[Leaf], shape: Sequence[int]) -> Dims:
        """Boundaries that fall on no leaf: everything between two that do is frozen."""
        if len(leaves) == 1:
            return self._frozen_run(leaves, shape)
        ends = set(np.cumprod([1, *shape]).tolist())
        out: list[Dim] = []
        run: list[Leaf] = []
        at, done, start = 1, 0, 1
        for leaf in leaves:
            run.append(leaf)
            at *= leaf.size
            if at not in ends:
                continue
            todo: list[int] = []
            while prod(todo) * start < at:
                todo.append(shape[done + len(todo)])
            out += self._regroup_run(run, todo)
            done += len(todo)
            run, start = [], at
        return (*out, *(() for _ in range(len(shape) - done)))

    def _regroup_run(self, run: list[Leaf], shape: list[int]) -> Dims:
        if len(run) == 1 or len(shape) == 1:
            return self._regroup(run, shape)
        return self._frozen_run(run, shape)

    def _frozen_run(self, run: list[Leaf], shape: Sequence[int]) -> Dims:
        why = no_common_cut(sizes(tuple(run)), "*".join(map(str, shape)))
        self.freeze(tuple(run), why, max(leaf.where for leaf in run))
        return tuple(opaque(n, f"meets a place where {why}") for n in shape)

    def split(self, dim: Dim, factors: Sequence[int]) -> Dims:
        """`dim` as a product of factors of the given sizes."""
        return self.reshape([dim], factors)

    def _split(self, leaf: Leaf, outer: int) -> tuple[Dim, Dim]:
        """One leaf as outer x inner, refining the product it already is where the two nest."""
        inner = leaf.size // outer
        if leaf.ids is None:
            return opaque(outer, leaf.why, leaf.where), opaque(inner, leaf.why, leaf.where)
        leaf = _root(leaf)
        if leaf.parts is None:
            p, q = self._fresh_leaf(outer, "factor"), self._fresh_leaf(inner, "factor")
            leaf.parts = (p, q)
            self._products.append(Product(_ids(leaf), p.ids, q.ids, self.where))
            return (p,), (q,)
        p, q = leaf.parts
        if p.size == outer:
            return (p,), (q,)
        if outer % p.size == 0:
            a, b = self._split(q, outer // p.size)
            return (p, *a), b
        if p.size % outer == 0:
            a, b = self._split(p, outer)
            return a, (*b, q)
        why = no_common_cut(f"{p.size}*{q.size}", f"{outer}*{inner}")
        self.freeze((leaf,), why, p.where)
        return opaque(outer, f"meets a place where {why}"), opaque(
            inner, f"meets a place where {why}"
        )

    def factors(self, dim: Dim) -> Dim:
        """The finest product that a dimension is known to be."""
        out: list[Leaf] = []
        stack = list(reversed(dim))
        while stack:
            leaf = _root(stack.pop())
            if leaf.parts is None:
                out.append(leaf)
            else:
                stack += reversed(leaf.parts)
        return tuple(out)

    def merge(self, dim: Dim) -> Leaf:
        """A product as one leaf with ids of its own, which remembers its factors."""
        if len(dim) == 1:
            return dim[0]
        if is_opaque(dim):
            return _like(dim, size_of(dim))
        key = tuple(id(leaf) for leaf in dim)
        if key not in self._merged:
            self._keep.append(dim)
            leaf = self._fresh_leaf(size_of(dim), "merged")
            first, rest = dim[0], self.merge(dim[1:])
            leaf.parts = (first, rest)
            self._products.append(Product(_ids(leaf), first.ids, rest.ids, self.where))
            self._merged[key] = leaf
        return self._merged[key]

    def ranked(self, dim: Dim, why: str) -> Dim:
        """As many elements as `dim` has, in an order of their own: none is at a place that the code may name.

        Which of them go is of no account, so those do that stand where channels go.
        """
        return tuple(
            Leaf(leaf.size, leaf.ids, root=_root(leaf), where=self.where, ranked=why)
            for leaf in dim
        )

    def take(self, dim: Dim, index: Ids, why: str = "") -> Dim:
        """Elements `index` of `dim`, in that order: slice, flip, roll, constant gather.

        A single element loses its dimension, and with it the means to follow it: it is frozen.
        """
        size = size_of(dim)
        if len(index) == size and np.array_equal(index, np.arange(size)):
            return dim
        if is_opaque(dim):
            return (_like(dim, len(index)),) if len(index) != 1 else ()
        for leaf in dim:
            if leaf.ranked:
                self.freeze((leaf,), leaf.ranked)
        if len(index) == 1:
            self.freeze_at(dim, int(index[0]), why or f"position {int(index[0])} is read by itself")
            return ()
        whole_rows = self._rows(dim, index)
        if whole_rows is not None:
            return whole_rows
        return (self._leaf(_ids(self.merge(dim))[index]),)

    def _rows(self, dim: Dim, index: Ids) -> Dim | None:
        """Whole rows of a product: indexing its outer leaf, the inner ones stay as they are."""
        inner = size_of(dim[1:])
        if inner == 1 or len(index) % inner:
            return None
        rows = index.reshape(-1, inner)
        if (rows[:, :1] % inner).any() or (rows != rows[:, :1] + np.arange(inner)).any():
            return None
        return (*self.take(dim[:1], rows[:, 0] // inner), *dim[1:])

    def concat(self, dims: Iterable[Dim]) -> Dim:
        """One dimension after another."""
        dims = list(dims)
        if len(dims) == 1:
            return dims[0]
        if all(is_opaque(dim) for dim in dims):
            size = sum(size_of(dim) for dim in dims)
            return (_like([leaf for dim in dims for leaf in dim], size),) if size != 1 else ()
        return (self._leaf(np.concatenate([self._ids_of(dim) for dim in dims])),)

    def _ids_of(self, dim: Dim) -> Ids:
        """Ids of any dimension; what has none gets fixed ones."""
        if is_opaque(dim):
            fixed = self._fresh_leaf(size_of(dim), "fixed")
            said = _speaks(dim) or Leaf(1, why=_JOINED[bool(dim)])
            self.freeze((fixed,), said.why, said.where)
            return _ids(fixed)
        return _ids(self.merge(dim))

    def channels(self, classes: Classes) -> NDArray[np.bool_]:
        """Classes that some weight makes or takes, by themselves or as a factor of what it does."""
        mask = np.zeros(classes.count, bool)
        for ids in self._weighed.values():
            mask[classes.label[ids]] = True
        count = -1
        while count != (count := int(mask.sum())):
            made = mask[classes.le]
            mask[classes.lp[made]] = mask[classes.lq[made]] = True
        return mask

    def solve(self) -> Classes:
        """Everything said so far, as classes of elements."""
        idle = Unread(tuple(self._read.values()), tuple(self._unread))
        said = Said(self._frozen, self._mixed)
        return solve(self.count, self._equal, self._products, said, idle)


def sizes(dim: Dim) -> str:
    """A dimension as people write it: '3*4*16', '1' for the empty product."""
    return "*".join(str(leaf.size) for leaf in dim) or "1"


_JOINED = {
    True: "joined with a dimension that is never cut",
    False: "joined from an extent of one, which stays",
}


def _speaks(leaves: Iterable[Leaf]) -> Leaf | None:
    """The first of the opaque ones among the leaves that says something of what meets it."""
    return next((leaf for leaf in leaves if leaf.why), None)


def _like(leaves: Iterable[Leaf], size: int) -> Leaf:
    """An opaque extent that says what the leaves say."""
    said = _speaks(leaves)
    return Leaf(size, why=said.why, where=said.where) if said else Leaf(size)


def _root(leaf: Leaf) -> Leaf:
    while leaf.root is not None:
        if leaf.root.root is not None:
            leaf.root = leaf.root.root
        leaf = leaf.root
    return leaf


def _all_ids(dim: Dim) -> list[Ids]:
    return [leaf.ids for leaf in dim if leaf.ids is not None]


def _ids(leaf: Leaf) -> Ids:
    assert leaf.ids is not None
    return leaf.ids
