"""From equalities and products of element ids to classes that stay or go together.

Equal elements are connected components. A product ties three arrays: E[i, j] goes when P[i] or
Q[j] goes. Where two products share elements, their factors are the same (rows with rows, columns
with columns); where they are not aligned, one of the two gives up a factor, which is always sound:
it only means that this factor is not cut. Linear time on arrays; no Python object per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from surgeon.distinct import distinct

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
_REPEATS = "along it the same channels stand again, so that none can go by itself"


def no_common_cut(one: str, other: str) -> str:
    """The reason of channels that two ops take as products which do not nest, as '3*4' and '4*3'."""
    return f"one op takes the channels as {one} and another as {other}: no cut keeps both whole"


@dataclass(frozen=True)
class Why:
    """A reason and the caller's mark of where it arose."""

    text: str
    where: int
    other: int = -1  # of a second place that the text speaks of


@dataclass(frozen=True)
class Product:
    """E = P x Q, row-major; a factor without ids is never cut."""

    e: Ids
    p: Ids | None
    q: Ids | None
    where: int


@dataclass(frozen=True)
class Classes:
    """Elements by class. Classes of product elements are *derived*; all others are *atoms*."""

    label: Ids  # id -> class
    count: int
    le: Ids  # derived class and, for each row, the class of its row factor and column factor
    lp: Ids
    lq: Ids
    frozen: Ids  # class -> index of its reason in `reasons`, or -1
    mixed: Ids  # likewise: the reason why cutting is not exact
    reasons: tuple[Why, ...]

    @cached_property
    def derived(self) -> Mask:
        """Which classes are elements of a product."""
        mask = np.zeros(self.count, bool)
        mask[self.le] = True
        return mask

    def holding(self, held: Sequence[tuple[Ids, Why]]) -> Classes:
        """The same, of which these classes stay too."""
        frozen = self.frozen.copy()
        for k, (classes, _) in enumerate(held, len(self.reasons)):
            frozen[classes] = np.where(frozen[classes] < 0, k, frozen[classes])
        return replace(self, frozen=frozen, reasons=(*self.reasons, *(why for _, why in held)))

    def close(self, removed: Mask) -> Mask:
        """Removed classes, with the product elements that go because a factor goes."""
        out = removed.copy()
        while True:
            new = self.le[(out[self.lp] | out[self.lq]) & ~out[self.le]]
            if not len(new):
                return out
            out[new] = True

    def atoms_of(self, rows: Ids, cols: Ids, shape: int) -> csr_array:
        """[shape x classes] incidence `rows x cols`, with derived classes replaced by their atoms."""
        pairs = coo_array(
            (np.ones(len(rows), bool), (rows, cols)), shape=(shape, self.count)
        ).tocsr()
        if not len(self.le):
            return pairs
        while self.derived[pairs.indices].any():
            pairs = csr_array((pairs @ self._step).astype(bool))
        return pairs

    @cached_property
    def _step(self) -> csr_array:
        """[classes x classes]: from a derived class to its factors, from an atom to itself."""
        atoms = np.flatnonzero(~self.derived)
        rows = np.concatenate([self.le, self.le, atoms])
        cols = np.concatenate([self.lp, self.lq, atoms])
        ones = np.ones(len(rows), bool)
        return coo_array((ones, (rows, cols)), shape=(self.count, self.count)).tocsr()


@dataclass
class _Products:
    """All live products, flattened: one row an element."""

    e: Ids
    p: Ids
    q: Ids
    k: Ids  # which product
    where: tuple[int, ...]  # by product
    shape: tuple[str, ...]  # by product, as people write it

    @staticmethod
    def of(products: Sequence[Product]) -> _Products:
        live = [x for x in products if x.p is not None and x.q is not None]
        if not live:
            none = np.zeros(0, np.int64)
            return _Products(none, none, none, none, (), ())
        return _Products(
            np.concatenate([x.e for x in live]),
            np.concatenate([np.repeat(x.p, len(x.q)) for x in live]),  # type: ignore[arg-type]
            np.concatenate([np.tile(x.q, len(x.p)) for x in live]),  # type: ignore[arg-type]
            np.repeat(np.arange(len(live)), [len(x.e) for x in live]),
            tuple(x.where for x in live),
            tuple(f"{len(x.p)}*{len(x.q)}" for x in live),  # type: ignore[arg-type]
        )

    def without(self, gone: Mask) -> _Products:
        rows = (self.e[~gone], self.p[~gone], self.q[~gone], self.k[~gone])
        return _Products(*rows, self.where, self.shape)

    def clash(self, one: int, other: int) -> Why:
        """Why the first of two products that do not nest gives up a factor."""
        text = no_common_cut(self.shape[one], self.shape[other])
        return Why(text, self.where[one], self.where[other])


@dataclass(frozen=True)
class Unread:
    """`read`: elements that an op computes with. `idle`: elements that may not be cut unless one does."""

    read: tuple[Ids, ...] = ()
    idle: tuple[tuple[Ids, Why], ...] = ()

    def frozen(self, label: Ids, table: _Products) -> list[tuple[Ids, Why]]:
        """Those of `idle` that no op computes with: not as they are, as a product, nor as a factor of one."""
        known = np.zeros(len(label), bool)
        for ids in self.read:
            known[label[ids]] = True
        e, p, q = label[table.e], label[table.p], label[table.q]
        count = -1
        while count != (count := int(known.sum())):
            known[p[known[e]]] = True
            known[q[known[e]]] = True
            known[e[known[p] & known[q]]] = True
        parts = ((ids[~known[label[ids]]], why) for ids, why in self.idle)
        return [(ids, why) for ids, why in parts if len(ids)]


@dataclass(frozen=True)
class Said:
    """What was said of elements: frozen, and mixed."""

    frozen: Sequence[tuple[Ids, Why]] = ()
    mixed: Sequence[tuple[Ids, Why]] = ()


def solve(
    count: int,
    equal: Sequence[tuple[Ids, Ids]],
    products: Sequence[Product],
    said: Said = Said(),
    unread: Unread = Unread(),
) -> Classes:
    """Classes of `count` elements from equalities, products and what was said about them, and what is frozen
    where nothing reads it."""
    edges = [*equal, *_fixed_factors(products)]
    a = np.concatenate([x for x, _ in edges]) if edges else np.zeros(0, np.int64)
    b = np.concatenate([y for _, y in edges]) if edges else np.zeros(0, np.int64)
    table = _Products.of(products)
    given_up: list[tuple[Ids, Why]] = []
    while True:
        label = _components(count, a, b)
        found = _disagreements(label, table)
        own = _own_factor(label, table) if found is None else None
        if found is not None:
            table, x, y = _settle(label, table, found, given_up)
        elif own is not None:
            table, x, y = _give_up(table, *own, given_up, Why(_REPEATS, table.where[own[0]]))
        else:
            break
        a, b = np.concatenate([a, x]), np.concatenate([b, y])
    frozen = [*said.frozen, *given_up, *unread.frozen(label, table)]
    return _finish(label, table, replace(said, frozen=frozen))


def _fixed_factors(products: Sequence[Product]) -> list[tuple[Ids, Ids]]:
    """A product with one factor that is never cut says that its elements equal the other factor."""
    edges = []
    for x in products:
        if x.p is None and x.q is not None:
            edges.append((x.e, np.tile(x.q, len(x.e) // len(x.q))))
        elif x.q is None and x.p is not None:
            edges.append((x.e, np.repeat(x.p, len(x.e) // len(x.p))))
    return edges


def _components(count: int, a: Ids, b: Ids) -> Ids:
    matrix = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    return connected_components(matrix, directed=False)[1].astype(np.int64)


def _disagreements(label: Ids, t: _Products) -> tuple[Ids, Ids] | None:
    """Rows i, j of the table that are one element but have different factors; None when there are none."""
    le, lp, lq = label[t.e], label[t.p], label[t.q]
    order = np.lexsort((t.k, le))
    i, j = order[:-1], order[1:]
    differ = (le[i] == le[j]) & ((lp[i] != lp[j]) | (lq[i] != lq[j]))
    return (i[differ], j[differ]) if differ.any() else None


def _settle(
    label: Ids, t: _Products, found: tuple[Ids, Ids], given_up: list[tuple[Ids, Why]]
) -> tuple[_Products, Ids, Ids]:
    """One pair of products after the other: factors equated where aligned, given up where not."""
    i, j = found
    losers: list[tuple[int, bool, Why]] = []
    xs: list[Ids] = []
    ys: list[Ids] = []
    pairs = t.k[i] * len(t.where) + t.k[j]
    touched: set[int] = set()
    for pair in distinct(pairs):
        m, n = i[pairs == pair], j[pairs == pair]
        both = {int(t.k[m[0]]), int(t.k[n[0]])}
        if len(both) == 1 or _aligned(label, t, m, n):
            xs += [t.p[m], t.q[m]]
            ys += [t.p[n], t.q[n]]
        elif not touched & both:
            touched |= both
            loser, keeps_columns = _loser(label, t, m, n)
            (winner,) = both - {loser}
            losers.append((loser, keeps_columns, t.clash(loser, winner)))
    left = t
    for loser, keeps_columns, why in losers:
        left, x, y = _give_up(left, loser, keeps_columns, given_up, why)
        xs.append(x)
        ys.append(y)
    none = np.zeros(0, np.int64)
    return left, np.concatenate([none, *xs]), np.concatenate([none, *ys])


def _give_up(
    t: _Products, loser: int, keeps_columns: bool, given_up: list[tuple[Ids, Why]], why: Why
) -> tuple[_Products, Ids, Ids]:
    """A product without one of its factors, which is not cut: its elements equal the other one."""
    rows = t.k == loser
    kept, lost = (t.q, t.p) if keeps_columns else (t.p, t.q)
    given_up.append((lost[rows], why))
    return t.without(rows), t.e[rows], kept[rows]


def _own_factor(label: Ids, t: _Products) -> tuple[int, bool] | None:
    """A product some of whose elements are their own row or column, and whether it is their column.

    Pairs that rotary embeddings turn: even channels beside odd ones, added to the channels themselves.
    """
    for factor, keeps_columns in ((t.p, False), (t.q, True)):
        at = np.flatnonzero(label[t.e] == label[factor])
        if len(at):
            return int(t.k[at[0]]), keeps_columns
    return None


def _aligned(label: Ids, t: _Products, m: Ids, n: Ids) -> bool:
    """Rows of one product are rows of the other, one to one, and so are the columns."""
    return _one_to_one(label[t.p[m]], label[t.p[n]]) and _one_to_one(label[t.q[m]], label[t.q[n]])


def _one_to_one(x: Ids, y: Ids) -> bool:
    pairs = _pairs(x, y)
    return pairs == len(distinct(x)) == len(distinct(y))


def _function_of(x: Ids, y: Ids) -> bool:
    """Whether y is a function of x."""
    return _pairs(x, y) == len(distinct(x))


def _pairs(x: Ids, y: Ids) -> int:
    """How many different pairs there are."""
    return len(distinct(x * (int(y.max(initial=0)) + 1) + y))


def _distinct_rows(a: Ids, b: Ids, c: Ids) -> tuple[Ids, Ids, Ids]:
    """The different triples. (np.unique over an axis sorts records, many times slower.)"""
    order = np.lexsort((c, b, a))
    a, b, c = a[order], b[order], c[order]
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1]) | (c[1:] != c[:-1])
    return a[new], b[new], c[new]


def _loser(label: Ids, t: _Products, m: Ids, n: Ids) -> tuple[int, bool]:
    """Which product gives up a factor, and whether it keeps its columns (else its rows).

    A product that holds the other within one run of its columns (the shuffled halves of ShuffleNet,
    re-joined and seen as 2 x c) loses nothing that could be cut by giving up its rows.
    """
    for a, b in ((m, n), (n, m)):  # does b hold a?
        inner = label[t.p[a]] * (int(label.max()) + 1) + label[t.q[a]]
        if _function_of(label[t.q[b]], inner):
            return int(t.k[b[0]]), True
        if _function_of(label[t.p[b]], inner):
            return int(t.k[b[0]]), False
    return int(t.k[n[0]]), True


def _finish(label: Ids, t: _Products, said: Said) -> Classes:
    frozen = said.frozen
    count = int(label.max()) + 1 if len(label) else 0
    le, lp, lq = _distinct_rows(label[t.e], label[t.p], label[t.q])
    circular = _circular(count, le, lp, lq)
    if circular.any():  # a class that is a factor of itself cannot be decided: all of it stays
        stuck = distinct(np.concatenate([le[circular], lp[circular], lq[circular]]))
        why = Why("channels that a product is made of are made of that product", t.where[0])
        frozen = [*frozen, (np.flatnonzero(np.isin(label, stuck)), why)]
        le, lp, lq = le[~circular], lp[~circular], lq[~circular]
    reasons: list[Why] = []
    return Classes(
        label,
        count,
        le,
        lp,
        lq,
        _spread(_reason_of(label, count, frozen, reasons), le, lp, lq),
        _spread(_reason_of(label, count, said.mixed, reasons), le, lp, lq),
        tuple(reasons),
    )


def _circular(count: int, le: Ids, lp: Ids, lq: Ids) -> Mask:
    """Rows whose element leads back to itself through its factors."""
    if not len(le):
        return np.zeros(0, bool)
    edges = (np.ones(2 * len(le), np.int8), (np.tile(le, 2), np.concatenate([lp, lq])))
    ring = connected_components(coo_array(edges, shape=(count, count)), connection="strong")[1]
    many = np.bincount(ring)[ring] > 1
    own = (le == lp) | (le == lq)
    return (many[le] & ((ring[le] == ring[lp]) | (ring[le] == ring[lq]))) | own


def _reason_of(label: Ids, count: int, said: Sequence[tuple[Ids, Why]], reasons: list[Why]) -> Ids:
    """Class -> index of the first reason said of it, -1 where none was."""
    out = np.full(count, -1, np.int64)
    for ids, why in said:
        classes = label[ids]
        new = classes[out[classes] < 0]
        if len(new):
            out[new] = len(reasons)
            reasons.append(why)
    return out


def _spread(reason: Ids, le: Ids, lp: Ids, lq: Ids) -> Ids:
    """What holds for a product's element holds for both of its factors."""
    while True:
        before = reason.copy()
        for factor in (lp, lq):
            new = (reason[le] >= 0) & (reason[factor] < 0)
            reason[factor[new]] = reason[le[new]]
        if np.array_equal(before, reason):
            return reason
