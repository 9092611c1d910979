"""Which elements of an op's results depend on marked elements of its operands, by the op's notation.

A letter that stands in operand and result, and does not mix, ties their positions; along any other
dimension a result depends on all of an operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from surgeon.axes import size_of
from surgeon.couple import Coupling
from surgeon.graph import Node, Value
from surgeon.rules import Term, lookup, parse, spread

Operands = list[tuple[Value, list[Term]]]


class Notes:
    """The notation of the nodes of a coupled graph, with the sizes of their letters."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling

    def read(self, node: Node) -> tuple[Operands, list[tuple[Term, ...]]] | None:
        """(operands with a term a dimension, terms of the results); None where the op has no notation."""
        rule = lookup(node.op)
        if rule is None or rule.choose is None or node.index not in self.coupling.bound:
            return None
        form = rule.choose(node)
        notation = parse(form.text)
        places = form.at if form.at is not None else range(len(node.args))
        given = ((node.arg(i), terms) for i, terms in zip(places, notation.inputs, strict=False))
        operands = [(v, spread(t, len(v.shape))) for v, t in given if isinstance(v, Value)]
        return operands, list(notation.outputs)

    def sizes(self, node: Node, term: Term, size: int) -> list[int] | None:
        """Extents of a term's letters in a dimension of `size`; None where they are not known."""
        if len(term.letters) == 1:
            return [size]
        if size == 1:
            return [1] * len(term.letters)
        bound = self.coupling.bound[node.index]
        found = [size_of(bound[x]) if x in bound else 1 for x in term.letters]
        return found if prod(found) == size else None

    def by_letter(self, node: Node, terms: list[Term], mask: Tensor) -> dict[str, Tensor]:
        """Letter -> its positions with any marked element of an operand's mask."""
        out: dict[str, Tensor] = {}
        for d, term in enumerate(terms):
            sizes = self.sizes(node, term, mask.shape[d]) if term.letters else None
            if sizes is None:
                continue
            box = mask.movedim(d, 0).reshape(mask.shape[d], -1).any(1).reshape(sizes)
            for k, letter in enumerate(term.letters):
                out[letter] = box.movedim(k, 0).reshape(sizes[k], -1).any(1)
        return out


def touched(node: Node, notes: Notes, marked: Callable[[Value], Tensor | None]) -> list[Tensor]:
    """For each result a bool mask, of its shape, of what depends on a marked element.

    marked: the mask of an operand, None where nothing is marked. Without a notation everything depends
    on everything.
    """
    outs = [v.shape if v is not None else () for v in node.outputs]
    masks = [(v, m) for v in dict.fromkeys(node.inputs) if (m := marked(v)) is not None]
    masks = [(v, m) for v, m in masks if bool(m.any())]
    read = notes.read(node)
    if not masks or read is None:
        return [torch.full(s, bool(masks)) for s in outs]
    operands, results = read
    found = dict(masks)
    out = [torch.zeros(s, dtype=torch.bool) for s in outs]
    for value, terms in operands:
        if value in found:
            boxes = _boxes(node, notes, terms, found[value])
            for k, (result, shape) in enumerate(zip(results, outs, strict=False)):
                out[k] |= _written(node, notes, spread(result, len(shape)), shape, boxes)
    seen = {v for v, _ in operands}
    if any(v not in seen for v, _ in masks):  # an argument that the notation does not speak of
        return [torch.ones_like(m) for m in out]
    return out


Boxes = tuple[
    Tensor, Mapping[str, int], int
]  # a mask by letters, letter -> dimension, passing ones


def _boxes(node: Node, notes: Notes, terms: list[Term], mask: Tensor) -> Boxes:
    """The mask with '...' first and a dimension a letter behind; what is opaque or mixes is joined by any."""
    passing = [d for d, t in enumerate(terms) if t.text == "..."]
    shape: list[int] = []
    letters: list[str | None] = []
    for d, term in enumerate(terms):
        if d in passing:
            continue
        sizes = notes.sizes(node, term, mask.shape[d]) if term.letters else None
        letters += list(term.letters) if sizes else [None]
        shape += sizes or [mask.shape[d]]
    mixing = {x for t in terms for x in t.mixing}
    rest = [d for d in range(mask.dim()) if d not in passing]
    box = mask.permute([*passing, *rest]).reshape([*(mask.shape[d] for d in passing), *shape])
    where: dict[str, int] = {}
    for k, letter in enumerate(letters):
        at = len(passing) + k
        if letter is None or letter in mixing or letter in where:
            box = box.any(at, keepdim=True)
        else:
            where[letter] = at
    return box, where, len(passing)


def _written(
    node: Node, notes: Notes, terms: Sequence[Term], shape: Sequence[int], boxes: Boxes
) -> Tensor:
    """An operand's boxes, laid along the dimensions of a result."""
    box, where, passing = boxes
    mixing = {x for t in terms for x in t.mixing}
    full: list[int] = []
    wanted: list[str | None] = []
    over = [d for d, t in enumerate(terms) if t.text == "..."]
    for d, term in enumerate(terms):
        sizes = notes.sizes(node, term, shape[d]) if term.letters else None
        full += sizes or [shape[d]]
        wanted += list(term.letters) if sizes else ["..." if d in over else None]
    sources: list[
        int
    ] = []  # dimension of the box, for each of the result's; -1 where there is none
    passed = len(over)
    for letter in wanted:
        if letter == "...":
            sources.append(passing - passed if passing >= passed else -1)
            passed -= 1
        else:
            sources.append(-1 if letter is None or letter in mixing else where.get(letter, -1))
    for d in range(box.dim()):
        box = box if d in sources else box.any(d, keepdim=True)
    kept = [d for d in sources if d >= 0]
    rest = [d for d in range(box.dim()) if d not in kept]  # of an extent of one by now
    out = box.permute([*kept, *rest]).reshape([box.shape[d] for d in kept])
    for k, d in enumerate(sources):
        out = out.unsqueeze(k) if d < 0 else out
    fits = all(a in (1, b) for a, b in zip(out.shape, full, strict=True))
    return out.expand(full).reshape(shape) if fits else torch.full(shape, bool(out.any()))
