"""Factor notation: one line says what an op does with every dimension of its tensors.

    conv2d, groups g     n (g i) *, (g o) i *, (g o) -> n (g o) *

| term      | means                                                                        |
|-----------|------------------------------------------------------------------------------|
| `c`       | a factor: the same letter is the same axis wherever it stands                |
| `(g i)`   | a dimension that is a row-major product of factors                           |
| `c!`      | mixing: cutting it changes the result of what stays (softmax, norm, mean)    |
| `_` `*`   | one / any number of opaque dimensions: never cut, in and out are not tied    |
| `...`     | leading dimensions that pass through, aligned from the right, broadcast      |
| `1`       | an extent of one                                                             |

A factor that stands in an input and in no output is *reduced* (contracted): cutting it is exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from surgeon.axes import Algebra, Dim, Dims, opaque, size_of


@dataclass(frozen=True)
class Term:
    """One dimension of an operand; `letters` is empty for the special terms."""

    text: str
    letters: tuple[str, ...] = ()
    mixing: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Notation:
    """A parsed line: the terms of every operand and of every output."""

    inputs: tuple[tuple[Term, ...], ...]
    outputs: tuple[tuple[Term, ...], ...]

    @property
    def kept(self) -> frozenset[str]:
        """Factors that stand in an output."""
        return frozenset(x for terms in self.outputs for t in terms for x in t.letters)


_TOKEN = re.compile(r"\s*(\.\.\.|\*!?|_!?|1|[a-z]!?|\((?:\s*[a-z]!?)+\s*\))")


@lru_cache(maxsize=4096)
def parse(text: str) -> Notation:
    """Parse a line; ValueError names the place that is not understood.

    >>> [t.letters for t in parse("n (g i) * -> n").inputs[0]]
    [('n',), ('g', 'i'), ()]
    """
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"no '->' in rule '{text}'")
    inputs = tuple(_operand(part, text) for part in left.split(","))
    return Notation(inputs, tuple(_operand(part, text) for part in right.split(",")))


def _operand(part: str, text: str) -> tuple[Term, ...]:
    terms, at, part = [], 0, part.strip()
    while at < len(part):
        match = _TOKEN.match(part, at)
        if match is None:
            raise ValueError(f"cannot read '{part[at:].strip()}' in rule '{text}'")
        terms.append(_term(match.group(1)))
        at = match.end()
    if sum(t.text in ("*", "...") for t in terms) > 1:
        raise ValueError(f"more than one '*' or '...' in '{part}' of rule '{text}'")
    return tuple(terms)


def _term(token: str) -> Term:
    if token in ("...", "1") or token[0] in "*_":
        return Term(token.rstrip("!"))
    letters = re.findall(r"[a-z]!?", token)
    mixing = frozenset(x[0] for x in letters if x.endswith("!"))
    return Term(token, tuple(x[0] for x in letters), mixing)


def spread(terms: tuple[Term, ...], rank: int) -> list[Term]:
    """Terms one a dimension: `*` and `...` repeated as often as the rank asks for."""
    room = rank - sum(t.text not in ("*", "...") for t in terms)
    out: list[Term] = []
    for term in terms:
        out += [term] * room if term.text in ("*", "...") else [term]
    if len(out) != rank:
        raise ValueError(f"{rank} dimensions for '{' '.join(t.text for t in terms)}'")
    return out


@dataclass
class Binding:
    """Factors of one op as they are bound to dimensions, operand after operand."""

    algebra: Algebra
    op: str
    sizes: Mapping[str, int]
    why: str = "reads it as position, batch or space"
    letters: dict[str, Dim] = field(default_factory=dict)
    ellipsis: list[Dim] = field(default_factory=list)  # right-aligned, last dimension first

    def operand(self, terms: tuple[Term, ...], dims: Dims) -> None:
        """Tie the dimensions of one input to the factors of its terms."""
        passed: list[Dim] = []
        for term, dim in zip(spread(terms, len(dims)), dims, strict=True):
            if term.text == "...":
                passed.append(dim)
            elif term.letters:
                self._bind(term, dim)
            elif dim:
                self.algebra.freeze(dim, f"{self.op} {self.why}")
        for i, dim in enumerate(reversed(passed)):
            self._pass(i, dim)

    def _pass(self, i: int, dim: Dim) -> None:
        if i == len(self.ellipsis):
            self.ellipsis.append(dim)
        elif not self.ellipsis[i]:
            self.ellipsis[i] = dim
        else:
            self.ellipsis[i] = self.algebra.meet(self.ellipsis[i], dim)

    def _bind(self, term: Term, dim: Dim) -> None:
        size = size_of(dim)
        factors = self._factors(term, size)
        if factors is None:
            return
        for letter, part in zip(term.letters, self.algebra.split(dim, factors), strict=True):
            bound = self.letters.get(letter)
            if not bound:
                self.letters[letter] = part
            else:
                self.letters[letter] = self.algebra.meet(bound, part)
            if letter in term.mixing:
                self.algebra.mix(part, f"{self.op} mixes over it")

    def _factors(self, term: Term, size: int) -> list[int] | None:
        """Sizes of a term's factors; None where an extent of one is broadcast."""
        known = [self._size(x) for x in term.letters]
        if size == 1:
            return [1] * len(known) if prod(n or 1 for n in known) == 1 else None
        if len(known) == 1:
            return [size]
        rest = size // prod(n for n in known if n)
        return [rest if n is None else n for n in known]

    def _size(self, letter: str) -> int | None:
        if letter in self.sizes:
            return self.sizes[letter]
        return size_of(self.letters[letter]) if letter in self.letters else None

    def rank(self, letter: str, like: str) -> None:
        """A factor of the outputs with as many elements as another one, in an order of their own."""
        why = f"{self.op} puts them in order, and a place in that order is read by itself"
        self.letters[letter] = self.algebra.ranked(self.letters[like], why)

    def output(self, terms: tuple[Term, ...], shape: Sequence[int]) -> Dims:
        """The dimensions of one output."""
        spread_terms = spread(terms, len(shape))
        passing = sum(t.text == "..." for t in spread_terms)
        passed = iter(self.ellipsis[passing - 1 :: -1] if passing else [])
        out: list[Dim] = []
        for term, size in zip(spread_terms, shape, strict=True):
            if term.text == "...":
                out.append(next(passed))
            elif term.letters:
                out.append(self._product(term, size))
            else:
                why = f"meets batch, space or positions of {self.op}, which stay"
                out.append(opaque(size, why, self.algebra.where))
        return tuple(out)

    def _product(self, term: Term, size: int) -> Dim:
        dim = tuple(leaf for x in term.letters for leaf in self.letters.get(x, ()))
        if size_of(dim) != size:
            raise AssertionError(
                f"{self.op}: '{term.text}' has {size_of(dim)} elements, not {size}"
            )
        return dim
