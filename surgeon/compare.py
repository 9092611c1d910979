"""Outputs against outputs: the worst difference, relative to each output's own range."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from surgeon.errors import CheckFailed

_ROUNDINGS = 32  # that sums in another order may add up to
_EPS = 2.0**-52  # of float64; torch.finfo is made to say the model's own while it is checked


def equal(a: Tensor, b: Tensor) -> bool:
    """Of the same shape and numbers, NaN being equal to NaN."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def compare(want: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """Worst difference over all outputs relative to each output's own range.

    NaN and infinities, which broken weights and masks give, must be the same in the same places. In float64 a difference of a few
    roundings of an output's largest number is none: logits of an untrained network may lie that close together, far from zero.
    """
    if len(want) != len(got):
        raise CheckFailed(f"the cut model gives {len(got)} outputs instead of {len(want)}")
    worst = 0.0
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        if a.shape != b.shape:
            raise CheckFailed(f"output {i} has shape {list(b.shape)} instead of {list(a.shape)}")
        rounding = _ROUNDINGS * _EPS if a.dtype is torch.float64 else 0.0
        a, b = real(a), real(b)
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()) or not equal(a[~finite], b[~finite]):
            return float("nan")
        a, b = a[finite], b[finite]
        if not a.numel():
            continue
        largest = float(a.abs().max())
        spread = float(a.max() - a.min()) or largest
        difference = float((a - b).abs().max())
        if difference <= rounding * largest:
            continue
        worst = max(worst, difference / spread if spread else difference)
    return worst


def real(tensor: Tensor) -> Tensor:
    """In float64, complex numbers as pairs; of its own, though the forward may ask for gradients."""
    tensor = tensor.detach()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()


def in_range(tensor: Tensor, largest: float) -> Tensor:
    """The tensor, infinite where it is at or beyond the largest number of the model's own precision.

    No network computes such a number; masks are filled with it (`torch.finfo(x.dtype).min`), and as a number it would make the
    range so wide that no other difference showed.
    """
    if not is_number(tensor):
        return tensor
    numbers = real(tensor)
    beyond = numbers.abs() >= largest
    return numbers.where(~beyond, numbers.sign() * torch.inf) if bool(beyond.any()) else tensor


def alike(a: Tensor, b: Tensor) -> bool:
    """Of the same count and, within rounding, the same numbers in order."""
    if a.numel() != b.numel():
        return False
    return torch.allclose(real(a).flatten(), real(b).flatten(), 1e-6, 1e-9, equal_nan=True)


def nearest(want: Tensor, got: Tensor, factors: Sequence[float]) -> Tensor:
    """`got`, each element divided by that of the factors which brings it closest to `want`, or by none: a cut model whose
    weights took up a scale has results that are these multiples of the original's."""
    if not factors or not is_number(got) or want.numel() != got.numel():
        return got
    want, best = want.reshape(got.shape), got
    for factor in factors:
        other = got / factor
        best = torch.where((other - want).abs() < (best - want).abs(), other, best)
    return best


def carried(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The least share of an output's range that changes with the input; NaN carries nothing, nor do infinities (a mask's)."""
    pairs = [(real(x), real(y)) for x, y in zip(a, b, strict=False) if is_number(x)]
    shares = [_changed(x, y) for x, y in pairs if x.numel() and x.shape == y.shape]
    return min((s if isfinite(s) else 0.0 for s in shares), default=0.0)


def _changed(x: Tensor, y: Tensor) -> float:
    bounded = ~(x.isinf() | y.isinf())
    x, y = x[bounded], y[bounded]
    if not x.numel():
        return 0.0
    return float((x - y).abs().max()) / (float(x.max() - x.min()) or 1.0)


def is_number(tensor: Tensor) -> bool:
    """Whether it is made of real or complex numbers: no index, no mask."""
    return tensor.is_floating_point() or tensor.is_complex()
