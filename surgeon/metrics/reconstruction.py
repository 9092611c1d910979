"""Output error: how far a network's outputs are from the original's, relative to how much these vary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class OutputError:
    """Gathered batch by batch; memory: one output of one example.

    Of each output: mean((got - want)^2) / mean((want - mean of want over examples)^2), then the mean over
    outputs. No unit; 0 is the same, 1 is as bad as a constant. Where an output is the same for every
    example (or there is one), relative to its mean square.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, tuple[int, ...]], _Sums] = {}

    def add(self, want: Sequence[Tensor], got: Sequence[Tensor]) -> None:
        """One batch: floating point outputs [examples, ...] of the original and of the other network.

        Outputs of another size in another batch (padded text) have means of their own.
        """
        for number, (x, y) in enumerate(zip(want, got, strict=True)):
            x, y = x.detach().double(), y.detach().double()
            x, y = (x, y) if x.dim() else (x[None], y[None])
            key = number, tuple(x.shape[1:])
            self._kinds.setdefault(key, _Sums(x.mean(0))).add(x, y)

    @property
    def value(self) -> float:
        """The error so far; 0 where there were no outputs."""
        numbers = sorted({number for number, _ in self._kinds})
        shares = [_share([s for (n, _), s in self._kinds.items() if n == k]) for k in numbers]
        return sum(shares) / max(len(shares), 1)


class _Sums:
    """Of one output of one size; sums are around the first batch's mean, where rounding costs least."""

    def __init__(self, around: Tensor) -> None:
        self.around, self.sum = around, torch.zeros_like(around)
        self.examples, self.apart, self.squares, self.own = 0, 0.0, 0.0, 0.0

    def add(self, want: Tensor, got: Tensor) -> None:
        shifted = want - self.around
        self.examples += len(want)
        self.sum += shifted.sum(0)
        self.squares += float(shifted.square().sum())
        self.own += float(want.square().sum())
        self.apart += float((want - got).square().sum())

    @property
    def spread(self) -> float:
        return max(self.squares - float(self.sum.square().sum()) / max(self.examples, 1), 0.0)


def _share(kinds: Sequence[_Sums]) -> float:
    apart, spread = sum(k.apart for k in kinds), sum(k.spread for k in kinds)
    own = sum(k.own for k in kinds)
    return apart / max(spread if spread > 1e-24 * own else own, 1e-30)
