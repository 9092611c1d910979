"""Which positions of the letters of a notation are removed, read off masks and written to masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from surgeon.broadcast import thin
from surgeon.errors import CheckFailed
from surgeon.rules import Term, spread


class Letters:
    """The factors of one op: their sizes, and which of their positions are removed."""

    def __init__(self, op: str, sizes: Mapping[str, int]) -> None:
        self.op = op
        self.sizes = dict(sizes)
        self.gone: dict[str, Tensor] = {}
        self.passed: Tensor | None = None
        self._open: list[tuple[Term, Tensor]] = []  # removed, but no product by themselves

    def read(self, terms: tuple[Term, ...], mask: Tensor) -> None:
        """Take the removed positions of every factor of an operand from its mask; an empty one has none to tell."""
        if not mask.numel():
            return
        each, least = spread(terms, mask.dim()), thin(mask)
        passing = [d for d, t in enumerate(each) if t.text == "..."]
        if passing:
            rest = [d for d in range(mask.dim()) if d not in passing]
            own = least.all(dim=rest) if rest else least
            self.passed = own if self.passed is None else self.passed | own
        for d, term in enumerate(each):
            if term.text == "...":
                continue
            rest = [k for k in range(mask.dim()) if k != d]
            along = (least.all(dim=rest) if rest else least).expand(mask.shape[d])
            if term.letters:
                self._read_term(term, along)
            elif term.text in ("_", "*") and bool(along.any()) and not bool(along.all()):
                raise CheckFailed(f"removed channels lie along a position of {self.op}")

    def _read_term(self, term: Term, along: Tensor) -> None:
        sizes = self._factors(term, len(along))
        if sizes is None:
            return
        box = along.reshape(sizes)
        gone = []
        for k in range(len(sizes)):  # a factor's position is gone when all that it spans is
            rest = [j for j in range(len(sizes)) if j != k]
            gone.append(box.all(dim=rest) if rest else box)
        again = torch.zeros_like(box)
        for k, g in enumerate(gone):
            again |= laid(g, k, len(sizes))
        if not torch.equal(again, box):
            self._open.append((term, along))
        for letter, g in zip(term.letters, gone, strict=True):
            known = self.gone.get(letter)
            self.gone[letter] = g if known is None or len(known) != len(g) else known | g
            self.sizes[letter] = len(g)

    def settle(self) -> None:
        """A padded element carries no mask: its operand is a product only with the rows and columns
        that the other operands (the weights) have lost."""
        for term, along in self._open:
            product = self.along(term, along.device)
            if product is None or bool((along & ~product).any()):
                raise CheckFailed(f"what is removed at {self.op} is no product of rows and columns")

    def rank(self, ranked: Mapping[str, str]) -> None:
        """Factors of the outputs that lose as many elements as another one, at the same places."""
        known = {letter: like for letter, like in ranked.items() if like in self.gone}
        self.gone |= {letter: self.gone[like] for letter, like in known.items()}
        self.sizes |= {letter: self.sizes[like] for letter, like in known.items()}

    def _factors(self, term: Term, size: int) -> list[int] | None:
        known = [self.sizes.get(x) for x in term.letters]
        if size == 1:
            return [1] * len(known) if all(n in (None, 1) for n in known) else None
        if len(known) == 1:
            return [size]
        rest = size
        for n in known:
            rest //= n or 1
        return [rest if n is None else n for n in known]

    def write(self, terms: tuple[Term, ...], shape: Sequence[int], device: torch.device) -> Tensor:
        """The mask of an output, broadcastable to its shape."""
        each = spread(terms, len(shape))
        mask = torch.zeros((1,) * len(shape), dtype=torch.bool, device=device)
        passing = [d for d, t in enumerate(each) if t.text == "..."]
        if passing and self.passed is not None:
            own = self.passed.reshape((1,) * (len(passing) - self.passed.dim()) + self.passed.shape)
            full = [1] * len(shape)
            for d, n in zip(passing, own.shape, strict=True):
                full[d] = n
            mask = mask | own.reshape(full)
        for d, term in enumerate(each):
            along = self.along(term, device)
            if along is not None and len(along) == shape[d]:
                mask = mask | laid(along, d, len(shape))
        return mask

    def mixed(self, operands: Sequence[tuple[int, tuple[Term, ...], Tensor]]) -> bool:
        """Whether something is removed along a factor that mixes."""
        mixing = {x for _, terms, _ in operands for t in terms for x in t.mixing}
        return self.lost(mixing)

    def lost(self, letters: Iterable[str]) -> bool:
        """Whether something is removed along one of these factors."""
        return any(bool(self.gone[x].any()) for x in letters if x in self.gone)

    def kept(self) -> dict[str, int]:
        """How many positions of each factor stay."""
        gone = {x: int((~g).sum()) for x, g in self.gone.items()}
        return {**self.sizes, **gone}

    def along(self, term: Term, device: torch.device) -> Tensor | None:
        """Removed positions of a term: the product of its factors."""
        found = [self.gone.get(x) for x in term.letters]
        if not found or any(g is None for g in found):
            return None
        out = torch.zeros(1, dtype=torch.bool, device=device)
        for g in found:
            assert g is not None
            out = (out[:, None] | g[None, :]).flatten()
        return out


def laid(vector: Tensor, d: int, rank: int) -> Tensor:
    """A vector along dimension `d` of `rank`, broadcastable."""
    shape = [1] * rank
    shape[d] = -1
    return vector.reshape(shape)
