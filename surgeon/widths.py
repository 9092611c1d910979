"""The precision of the check: every float dtype that a forward names becomes the one that the check runs in.

Networks cast (`x.float()` around a norm, a bfloat16 body, softmax in float32). Compared in float64, such
a cast would round away the proof, or meet weights of another dtype; so it is a cast to float64 there.
What a forward asks of that dtype (`torch.finfo(x.dtype).min` for a mask, `.eps` beside a divisor) stays the model's own:
so it is written in a program, and so it is when the network is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_LOCK = RLock()
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


def own_dtype(model: nn.Module) -> torch.dtype:
    """The least precise float dtype of the model's parameters; float32 where it has none."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max(found, key=lambda d: torch.finfo(d).eps, default=torch.float32)


def widened(dtype: torch.dtype, to: torch.dtype | None) -> torch.dtype:
    """`dtype` as it is when floats are `to`; integers stay, and so does all where `to` is None."""
    if to is None:
        return dtype
    if dtype.is_complex:
        return _COMPLEX.get(to, dtype)
    return to if dtype.is_floating_point else dtype


def cast(tensor: Tensor, to: torch.dtype | None) -> Tensor:
    """A copy of the tensor in the dtype that it is compared in."""
    return tensor.to(widened(tensor.dtype, to), copy=True)


@contextmanager
def floats_as(to: torch.dtype | None, own: torch.dtype) -> Iterator[None]:
    """Inside, casts and factories that ask for a float dtype give `to`, and the limits of `to` are those of `own`, the model's;
    None changes nothing. One at a time, as the default dtype is the whole process's."""
    if to is None:
        yield
        return
    with _LOCK:
        default = torch.get_default_dtype()
        torch.set_default_dtype(to)
        try:
            with _Wide(to), _limits_of(own, to):
                yield
        finally:
            torch.set_default_dtype(default)


@contextmanager
def _limits_of(own: torch.dtype, to: torch.dtype) -> Iterator[None]:
    """Inside, `torch.finfo` tells of `own` where it is asked for `to`."""
    told = torch.finfo

    def finfo(type: torch.dtype | None = None) -> torch.finfo:
        asked = torch.get_default_dtype() if type is None else type
        return told(own if asked in (to, _COMPLEX.get(to)) else asked)

    torch.finfo = finfo  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        torch.finfo = told  # type: ignore[misc]


class _Wide(TorchDispatchMode):
    """Rewrites the dtypes among an op's arguments."""

    def __init__(self, to: torch.dtype) -> None:
        super().__init__()
        self.to = to

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if (
            func is torch.ops.aten.lift_fresh.default
        ):  # numbers written in the code, a size among them
            args = (cast(args[0], self.to),)
        args = tuple(self._wide(a) for a in args)
        return func(*args, **{k: self._wide(v) for k, v in (kwargs or {}).items()})

    def _wide(self, arg: Any) -> Any:
        return widened(arg, self.to) if isinstance(arg, torch.dtype) else arg
