"""Rules + graph -> groups: which channels of which layers must be cut together.

Every state tensor gets an axis a dimension; every node's rule says what its op does with the
dimensions it meets; the algebra gives classes of elements; classes that reach the same axes make a
group. Names no op.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgeon.axes import Algebra, Dim, Dims, opaque, size_of
from surgeon.classes import Classes, Why
from surgeon.distinct import distinct
from surgeon.errors import BadInput
from surgeon.graph import Graph, Node, Value
from surgeon.grouping import Group, Use, group_all
from surgeon.kinds import kinds_of
from surgeon.rules import USER, Binding, Form, Notation, Rule, Site, Term, lookup, parse, spread

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class Coupling:
    """All that is known about a graph's dimensions, and its groups."""

    graph: Graph
    algebra: Algebra
    dims: dict[Value, Dims]
    uses: list[Use]
    bound: dict[int, dict[str, Dim]]  # node -> its factors
    unknown: tuple[Node, ...]
    held: tuple[tuple[Ids, Why], ...] = ()  # classes that stay for a reason found later
    joined: tuple[frozenset[str], ...] = ()  # groups, by name, that are to lose the same share

    @cached_property
    def classes(self) -> Classes:
        """Classes of elements."""
        return self.algebra.solve().holding(self.held)

    def holding(self, atoms: Ids, why: str, node: int) -> Coupling:
        """The same, of which these classes stay. node: where the reason arose."""
        return replace(self, held=(*self.held, (atoms, Why(why, node))))

    def joining(self, sets: Iterable[frozenset[str]]) -> Coupling:
        """The same, of which the groups of each of these sets, by name, are to lose the same share: what is coupled is as before."""
        found = copy(self)
        found.joined = (*self.joined, *sets)
        return found

    def at(self, node: Node) -> Ids:
        """Classes that what goes into a node and what comes out of it depend on; of products, their factors."""
        values = (*node.inputs, *(v for v in node.outputs if v is not None))
        leaves = (leaf for v in values for dim in self.dims.get(v, ()) for leaf in dim)
        ids = [leaf.ids for leaf in leaves if leaf.ids is not None]
        labels = distinct(self.classes.label[np.concatenate([np.zeros(0, np.int64), *ids])])
        return distinct(self.classes.atoms_of(np.zeros_like(labels), labels, 1).indices).astype(
            np.int64
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Every group that reaches a state tensor, in order of first use; frozen ones too."""
        kinds = kinds_of(self.graph, self.dims, self.bound, self.classes)
        said = (self.explain, kinds, self.algebra.channels(self.classes))
        return group_all(self.classes, self.algebra.axes, self.uses, said)

    @cached_property
    def ties(self) -> tuple[frozenset[str], ...]:
        """Sets of groups, by name, that must lose equally many channels for the module's own forward
        to fit: runs of an even split, each of them one whole group beside what all of them share."""
        number = np.full(self.classes.count, -1, np.int64)
        for k, group in enumerate(self.groups):
            number[group.atoms] = k
        found = []
        known: dict[bytes, set[int]] = {}  # every step of a recurrent net makes the same split
        for runs in self.algebra.ties:
            parts = []
            for run in runs:
                labels = distinct(self.classes.label[run])
                if labels.tobytes() not in known:
                    known[labels.tobytes()] = self._groups_in(labels, number)
                parts.append(known[labels.tobytes()])
            own = [part - set.intersection(*parts) for part in parts]
            if all(len(part) == 1 for part in own):
                found.append(frozenset(self.groups[k].name for part in own for k in part))
        return tuple(dict.fromkeys(found))

    def _groups_in(self, labels: Ids, number: Ids) -> set[int]:
        """Groups that a run's classes consist of; none where it holds only a part of one."""
        atoms = self.classes.atoms_of(np.zeros_like(labels), labels, 1).indices
        here, count = np.unique(number[atoms], return_counts=True)
        whole = all(k >= 0 and n == self.groups[k].size for k, n in zip(here, count, strict=True))
        return set(here.tolist()) if whole else set()

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    def group(self, name: str) -> Group:
        """The group of this name."""
        return self._by_name[name]

    @cached_property
    def state(self) -> dict[str, Dims]:
        """Dimensions of every state tensor that the forward used, by its first name."""
        return {v.state[0]: self.dims[v] for v in self.graph.state.values() if v in self.dims}

    def explain(self, why: Why) -> str:
        """A reason with its place: 'no channel rule for aten.sort, at head (net.py:12)'; with both places
        and their ops where it speaks of two."""
        if why.where < 0:
            return why.text
        if why.other < 0:
            return f"{why.text}, at {self.place(why.where)}"
        both = (why.where, why.other)
        said = (f"{self.graph.nodes[i].op} in {self.place(i)}" for i in both)
        return f"{why.text}, at {' and '.join(said)}"

    def place(self, node: int) -> str:
        """Where a node stands: 'head (net.py:12)'."""
        found = self.graph.nodes[node]
        return found.where

    def removed(self, atoms: Ids) -> Mask:
        """All classes that go when these atoms go."""
        mask = np.zeros(self.classes.count, bool)
        mask[atoms] = True
        return self.classes.close(mask)

    def kept(self, dim: Dim, removed: Mask) -> Ids:
        """Positions of a dimension that stay."""
        at = np.zeros(1, np.int64)
        for leaf in dim:
            stays = np.arange(leaf.size)
            if leaf.ids is not None:
                stays = np.flatnonzero(~removed[self.classes.label[leaf.ids]])
            at = (at[:, None] * leaf.size + stays).ravel()
        return at

    def kept_size(self, dim: Dim, removed: Mask) -> int:
        """Extent of a dimension after the cut."""
        size = 1
        for leaf in dim:
            if leaf.ids is None:
                size *= leaf.size
            else:
                size *= leaf.size - int(np.count_nonzero(removed[self.classes.label[leaf.ids]]))
        return size


def couple(graph: Graph) -> Coupling:
    """Read every node's rule once, in order."""
    return _Reader(graph).read()


class _Reader:
    """Walks the graph; `weights` are values made from state by movement alone (a transposed weight), `made`
    those that the code makes of nothing (zeros, an identity matrix), `still` all that no input changes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.algebra = Algebra()
        self.dims: dict[Value, Dims] = {}
        self.uses: list[Use] = []
        self.bound: dict[int, dict[str, Dim]] = {}
        self.unknown: list[Node] = []
        self.weights: set[Value] = set()
        self.made: set[Value] = set()
        produced = {v for node in graph.nodes for v in node.outputs}
        given = {v for node in graph.nodes for v in node.inputs} - produced
        self.still = given - graph.given
        self.looked_at = {v for node in graph.nodes for v in node.inputs}
        self.looked_at.update(graph.outputs, graph.ends)

    def read(self) -> Coupling:
        for node in self.graph.nodes:
            self.algebra.where = node.index
            if any(v is not None for v in node.outputs):
                self._read(node)
        self.algebra.where = -1
        for value in (*self.graph.outputs, *self.graph.ends):
            place = self.graph.places.get(value, "")
            for dim in self.of(value):
                self.algebra.freeze(dim, f"model output {place}".rstrip())
                self.algebra.read(dim)
        self._keep_unread()
        return Coupling(
            self.graph, self.algebra, self.dims, self.uses, self.bound, tuple(self.unknown)
        )

    def _keep_unread(self) -> None:
        """Parts of a weight that no op computes with, only cut off (the rest of a table of positions): other
        inputs may reach them."""
        for value in self.graph.state.values():
            for dim in self.dims.get(value, ()):
                self.algebra.freeze_unread(dim, "not read with these inputs")

    def of(self, value: Value) -> Dims:
        """Dimensions of a value; state tensors get their axes when they are first met."""
        if value not in self.dims:
            self.dims[value] = self._begin(value)
        return self.dims[value]

    def _begin(self, value: Value) -> Dims:
        if not value.state or value.constant is not None:
            why = (
                _INPUT
                if value in self.graph.given
                else _LOOSE
                if value.constant is None
                else _WRITTEN
            )
            return tuple(opaque(n, why) for n in value.shape)
        self.weights.add(value)
        name = value.state[0]
        dims = tuple(self.algebra.fresh(n, (name, d)) for d, n in enumerate(value.shape))
        for d, dim in enumerate(dims) if self.graph.fixed else ():
            if why := self.graph.fixed.get((name, d)):
                self.algebra.freeze(dim, why)
        return dims

    def _read(self, node: Node) -> None:
        rule = lookup(node.op)
        if rule is None or rule.move is None:
            for value in node.inputs:
                for dim in self.of(value):
                    self.algebra.read(dim)
        if rule is None:
            self._refuse(node)
        elif rule.family == USER:
            self._users(node, rule)
        elif rule.choose is not None:
            self._factors(node, rule.choose(node))
        else:
            self._move(node, rule)
        if rule is not None and self.made.issuperset(node.inputs):
            self.made.update(v for v in node.outputs if v is not None)
        if self.still.issuperset(node.inputs):
            self.still.update(v for v in node.outputs if v is not None)

    def _users(self, node: Node, rule: Rule) -> None:
        """A rule that the user gave may not fit the call."""
        assert rule.choose is not None
        try:
            self._factors(node, rule.choose(node))
        except (ValueError, AssertionError) as error:
            raise BadInput(
                f"the rule '{rule.forms[0]}' does not fit {node.describe()}: {error}",
                "write a letter for each dimension, '*' for any number of them that are never cut",
            ) from error

    def _refuse(self, node: Node) -> None:
        self.unknown.append(node)
        for value in node.inputs:
            for dim in self.of(value):
                self.algebra.freeze(dim, f"no channel rule for {node.op}")
        why = f"meets a result of {node.op}, which has no channel rule"
        made = [v.shape if v else () for v in node.outputs]
        outs = [tuple(opaque(n, why, node.index) for n in shape) for shape in made]
        self._give(node, outs)

    def _move(self, node: Node, rule: Rule) -> None:
        assert rule.move is not None
        read = not self.looked_at.isdisjoint(v for v in node.outputs if v)
        out = rule.move(Site(self.algebra, node, self.of, read))
        if node.inputs and all(v in self.weights for v in node.inputs):
            self.weights.update(v for v in node.outputs if v is not None)
        self._give(node, out if isinstance(out, list) else [out])

    def _factors(self, node: Node, form: Form) -> None:
        notation = parse(form.text)
        binding = Binding(self.algebra, node.op, form.sizes, form.why)
        operands = list(zip(notation.inputs, self._operands(node, form), strict=False))
        for terms, value in operands:
            if value is not None:
                binding.operand(terms, self.of(value))
        for letter, why in form.fixed.items():
            self.algebra.freeze(binding.letters.get(letter, ()), f"{node.op} {why}")
        for letter, like in form.ranked.items():
            binding.rank(letter, like)
        self._note(node, operands, notation.kept)
        self._sum(operands, notation, binding)
        self._weigh(operands, notation, binding)
        if self.made.issuperset(v for _, v in operands if v is not None):
            self._alone(notation, binding)
        outs = zip(notation.outputs, node.outputs, strict=False)
        self._give(node, [binding.output(t, v.shape) if v else () for t, v in outs])
        self.bound[node.index] = binding.letters
        if form.told and self.looked_at.intersection(v for v in node.outputs[1:] if v):
            self._told(node, form.told, binding)

    def _sum(
        self,
        operands: list[tuple[tuple[Term, ...], Value | None]],
        notation: Notation,
        binding: Binding,
    ) -> None:
        """What an op sums over where no weight does: what a weight does not take cannot be left out of it."""
        letters, weighed = set[str](), set[str]()
        for terms, value in operands:
            own = {x for t in terms for x in t.letters}
            letters |= own
            weighed |= own if value in self.weights else set()
        for letter in (letters - weighed - notation.kept) & binding.letters.keys():
            self.algebra.add_up(binding.letters[letter], f"{binding.op} sums over it")

    def _weigh(
        self,
        operands: list[tuple[tuple[Term, ...], Value | None]],
        notation: Notation,
        binding: Binding,
    ) -> None:
        """What weights make and take, computed ones too: factors that a weight contracts, or that the input
        does not bring. All else passes it by: a norm's scale, a token that is joined to the input's."""
        letters: dict[bool, set[str]] = {True: set(), False: set()}
        for terms, value in operands:
            if value is not None:
                letters[value in self.still] |= {x for t in terms for x in t.letters}
        for letter in letters[True] - (letters[False] & notation.kept):
            self.algebra.weigh(binding.letters.get(letter, ()))

    def _alone(self, notation: Notation, binding: Binding) -> None:
        """What the code makes of nothing carries no channels by itself: where an op mixes or sums over it
        before it meets any, the result would say how many there are."""
        mixing = {x for terms in notation.inputs for t in terms for x in t.mixing}
        for letter in (mixing | binding.letters.keys()) - (notation.kept - mixing):
            if letter in binding.letters:
                why = f"{binding.op} runs along what the code makes of nothing, and would tell how much is left"
                self.algebra.freeze(binding.letters[letter], why)

    def _told(self, node: Node, letters: str, binding: Binding) -> None:
        """Positions that are looked at must stay what they are."""
        for letter in set(letters) & binding.letters.keys():
            self.algebra.freeze(binding.letters[letter], f"{node.op} tells positions along it")

    def _operands(self, node: Node, form: Form) -> Iterator[Value | None]:
        for i in form.at if form.at is not None else range(len(node.args)):
            arg = node.arg(i)
            yield arg if isinstance(arg, Value) else None

    def _note(
        self,
        node: Node,
        operands: list[tuple[tuple[Term, ...], Value | None]],
        kept: frozenset[str],
    ) -> None:
        """Which role each state dimension plays here: a factor that no activation brings is made."""
        data = {
            letter
            for terms, value in operands
            if value is not None and value not in self.weights
            for term in terms
            for letter in term.letters
        }
        filters = {x for terms, _ in operands if len(terms) > 1 for t in terms for x in t.letters}
        for terms, value in operands:
            if value is None or value not in self.weights:
                continue
            dims = self.dims[value]
            brought = data | filters if len(terms) == 1 else data  # a bias makes no channels
            for term, dim in zip(spread(terms, len(dims)), dims, strict=True):
                role = _role(term, brought, kept)
                self.uses += [Use(*label, role, node.index, node.op) for label in self._labels(dim)]

    def _labels(self, dim: Dim) -> Iterator[tuple[str, int]]:
        axes = self.algebra.axes
        for leaf in dim:
            if leaf.ids is not None:
                axis = axes[bisect_right(axes, int(leaf.ids[0]), key=lambda a: a.start) - 1]
                if isinstance(axis.label, tuple):
                    yield axis.label  # type: ignore[misc]

    def _give(self, node: Node, outs: list[Dims]) -> None:
        for value, dims in zip(node.outputs, outs, strict=False):
            if value is None:
                continue
            if tuple(size_of(d) for d in dims) != value.shape:
                found = [size_of(d) for d in dims]
                raise AssertionError(f"the rule of {node.describe()} gives {found}")
            known = self.dims.get(value)
            if known is None:
                self.dims[value] = dims
                continue
            for a, b in zip(
                known, dims, strict=True
            ):  # written in place: what was there is what is
                self.algebra.equate(a, b)


_INPUT = "meets the model's input, which stays"
_WRITTEN = "meets an index or a mask of whole numbers, which stays"
_LOOSE = "meets a tensor that the model holds as no parameter or buffer, which stays"


def _role(term: Term, data: set[str], kept: frozenset[str]) -> str:
    letters = set(term.letters)
    if not letters:
        return "along" if term.text == "..." else "opaque"
    if not letters & kept:
        return "takes"
    return "along" if letters <= data else "makes"
