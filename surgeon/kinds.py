"""What channels are for: heads, head_dim, width or mlp, read off the products and sums of a forward.

| kind       | channels                                                                                |
|------------|-----------------------------------------------------------------------------------------|
| `heads`    | along a batch letter of a product of two activations, or folded into its rows           |
| `head_dim` | along a contracted or an outer letter of such a product: what one head holds            |
| `width`    | of a stream: where outputs of several layers are added, or the columns of an embedding  |
| `mlp`      | all the others: made by one layer, taken by the next                                    |

A product of activations is a matrix product neither of whose sides is a weight. Outputs of several
layers are added where each side of a sum holds a layer's output that the other does not, unless
both sides are linear in the same values: a low-rank adapter and what it adapts are one layer. Where
two rows hold, heads comes first; a stream that a layer reads and adds to comes before head_dim, any
other sum after it. No name and no size is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from surgeon.axes import Dim, Dims, Leaf, size_of
from surgeon.classes import Classes
from surgeon.distinct import distinct
from surgeon.graph import Graph, Node, Value
from surgeon.rules import Notation, Rule, lookup, parse

Ids = NDArray[np.int64]

KINDS = ("heads", "head_dim", "width", "mlp")
_HEADS, _STREAM, _HEAD_DIM, _SUM, _REST = range(5)  # what is known of a class; the least one holds
_KIND = ("heads", "width", "head_dim", "width", "mlp")


@dataclass(frozen=True, slots=True)
class _Past:
    """Where a value comes from. Sets of nodes and of values are the bits of an integer."""

    state: bool  # the state itself, moved at most: a weight
    live: bool  # follows from an input
    writers: int  # layers whose outputs it holds
    above: int  # layers before those
    roots: int  # values that it is linear in


def kinds_of(
    graph: Graph,
    dims: Mapping[Value, Dims],
    bound: Mapping[int, Mapping[str, Dim]],
    classes: Classes,
) -> NDArray[np.str_]:
    """The kind of every class. bound: the factors of every node's rule."""
    marks = _Reader(graph, dims, bound).read()
    least = np.full(classes.count, _REST, np.int64)
    for rank, leaves in sorted(marks.items(), reverse=True):
        ids = [leaf.ids for leaf in leaves.values() if leaf.ids is not None]
        if ids:
            least[_atoms(classes, np.concatenate(ids))] = rank
    return np.array(_KIND)[least]


def _atoms(classes: Classes, ids: Ids) -> Ids:
    found = distinct(classes.label[ids])
    return classes.atoms_of(np.zeros_like(found), found, 1).indices.astype(np.int64)


class _Reader:
    """Walks the graph once and marks the leaves that products and sums say something about."""

    def __init__(
        self,
        graph: Graph,
        dims: Mapping[Value, Dims],
        bound: Mapping[int, Mapping[str, Dim]],
    ) -> None:
        self.graph, self.dims, self.bound = graph, dims, bound
        self.inputs = graph.given
        self.past: dict[Value, _Past] = {}
        self.marks: dict[int, dict[int, Leaf]] = {r: {} for r in range(_REST)}

    def read(self) -> dict[int, dict[int, Leaf]]:
        for node in self.graph.nodes:
            self._read(node)
        return self.marks

    def _of(self, value: Value) -> _Past:
        if value not in self.past:
            state = bool(value.state) and value.constant is None
            self.past[value] = _Past(state, value in self.inputs, 0, 0, 1 << value.index)
        return self.past[value]

    def _mark(self, rank: int, dim: Dim) -> None:
        self.marks[rank].update({id(leaf): leaf for leaf in dim if leaf.ids is not None})

    def _read(self, node: Node) -> None:
        rule, past = lookup(node.op), [self._of(v) for v in node.inputs]
        data = [p for p in past if not p.state]
        found = _joined(data)
        linear = rule is not None and rule.move is not None
        if rule is not None and rule.sense:
            linear = rule.sense == "sum" or len(data) <= 1
            if rule.sense == "sum":
                self._sum(node)
        elif rule is not None and rule.choose is not None and self.bound.get(node.index):
            found, linear = self._factors(node, rule, data)
        state = linear and not data and rule is not None and rule.move is not None and bool(past)
        for out in node.outputs:
            if out is not None:
                roots = found.roots if linear and data else 1 << out.index
                self.past[out] = _Past(state, found.live, found.writers, found.above, roots)

    def _factors(self, node: Node, rule: Rule, data: list[_Past]) -> tuple[_Past, bool]:
        """What a compute op makes of its past, and whether it is linear in one value."""
        assert rule.choose is not None
        form = rule.choose(node)
        notation = parse(form.text)
        places = form.at if form.at is not None else range(len(node.args))
        values = [node.arg(i) for i in places][: len(notation.inputs)]
        each = [{x for t in terms for x in t.letters} for terms in notation.inputs]
        sides = [
            (n, self._of(v))
            for n, v in enumerate(values)
            if isinstance(v, Value) and not self._of(v).state
        ]
        joined, contracts = _joined(data), bool(_twice(each) - notation.kept)
        if contracts:
            self._product(node, notation, [each[n] for n, _ in sides], sides)
        brought = set().union(*(each[n] for n, _ in sides))
        looked_up = bool(sides) and not brought  # positions bring no factor: a table's columns
        made = {x for x in notation.kept - brought if size_of(self._factor(node, x)) > 1}
        if made and (contracts or looked_up):
            above = joined.above | joined.writers
            joined = _Past(False, joined.live, 1 << node.index, above, joined.roots)
        for x in made if looked_up else ():
            self._mark(_SUM, self._factor(node, x))
        mixes = any(t.mixing for terms in notation.inputs for t in terms)
        linear = contracts or (rule.family == "normalization" and not mixes)
        return joined, linear and len(data) == 1

    def _factor(self, node: Node, letter: str) -> Dim:
        return self.bound[node.index].get(letter, ())

    def _product(
        self,
        node: Node,
        notation: Notation,
        letters: list[set[str]],
        sides: list[tuple[int, _Past]],
    ) -> None:
        """Mark the letters of a matrix product of two activations."""
        terms = [t for n, _ in sides for t in notation.inputs[n]]
        if any(len(t.letters) != 1 and t.text != "..." for t in terms):
            return
        twice = _twice(letters)
        batch = twice & notation.kept
        if twice == batch or not (batch or all(p.live for _, p in sides)):
            return
        for x in set().union(*letters):
            dim = self._factor(node, x)
            folded = x not in twice and any(f.ids is None and f.size > 1 for f in dim)
            self._mark(_HEADS if x in batch or folded else _HEAD_DIM, dim)

    def _sum(self, node: Node) -> None:
        """Mark the dimensions along which outputs of several layers are added."""
        values = [v for v in node.inputs if not self._of(v).state]
        out = next((v for v in node.outputs if v is not None), None)
        if out is None:
            return
        for a, b in combinations(values, 2):
            rank = _added(self._of(a), self._of(b))
            if rank is not None:
                for dim in _shared(out, a, b, self.dims.get(out, ())):
                    self._mark(rank, dim)


def _twice(letters: list[set[str]]) -> set[str]:
    """Letters that stand in two operands."""
    return {x for a, b in combinations(letters, 2) for x in a & b}


def _joined(past: Iterable[_Past]) -> _Past:
    live, writers, above, roots = False, 0, 0, 0
    for p in past:
        live, writers = live or p.live, writers | p.writers
        above, roots = above | p.above, roots | p.roots
    return _Past(False, live, writers, above, roots)


def _added(a: _Past, b: _Past) -> int | None:
    """What a sum of two values says: a layer adds to what it has read, several layers meet, or nothing."""
    own_a, own_b = a.writers & ~b.writers, b.writers & ~a.writers
    if not own_a or not own_b:
        return None
    if not own_a & ~b.above or not own_b & ~a.above:
        return _STREAM
    return _SUM if a.roots != b.roots else None


def _shared(out: Value, a: Value, b: Value, dims: Dims) -> list[Dim]:
    """Dimensions of a sum that neither side broadcasts."""
    both = zip(reversed(a.shape), reversed(b.shape), reversed(dims), strict=False)
    return [dim for n, m, dim in both if n == m == size_of(dim) > 1]
