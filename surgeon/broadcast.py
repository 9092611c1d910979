"""Broadcast tensors (stride 0) kept as small as they are: one of the equal copies along a dimension."""

from __future__ import annotations

from torch import Tensor


def thin(tensor: Tensor, keep: int | None = None) -> Tensor:
    """The tensor with an extent of one along every dimension that it is broadcast along, but for `keep`."""
    for d, (n, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and n > 1 and d != keep:
            tensor = tensor.narrow(d, 0, 1)
    return tensor


def narrow(tensor: Tensor) -> Tensor:
    """The tensor with an extent of one along every dimension that its values do not change along. NaN is
    equal to nothing."""
    least = thin(tensor)
    for d, n in sorted(enumerate(least.shape), key=lambda x: -x[1]):
        if n > 1:
            first = least.narrow(d, 0, 1)
            least = first if bool((least == first).all()) else least
    return least
