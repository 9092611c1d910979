"""Random numbers held still: what a forward draws is the same in a network and in its cut copy.

Two runs draw two sequences, and a cut copy, which draws fewer numbers, a third. Drawn numbers are alike
wherever they stand, so one number in the place of each tells of a cut what any others would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NUMBER = 0.618  # in the range of every distribution that is drawn from
_LIKELY = 0.4321  # what is more probable happens; no round number, at which rounding would decide
_DRAWS = frozenset(
    f"aten::{name}"
    for name in """
        rand randn rand_like randn_like normal_ uniform_ exponential_ log_normal_ cauchy_ geometric_
        random_ randint randint_like
    """.split()
)

_HELD = ContextVar("held", default=False)


@contextmanager
def held_still() -> Iterator[None]:
    """Inside, `drawing` holds random numbers still."""
    token = _HELD.set(True)
    try:
        yield
    finally:
        _HELD.reset(token)


def drawing() -> AbstractContextManager[Any]:
    """What a forward is run in, before any mode that watches it: this one is asked last."""
    return _Still() if _HELD.get() else nullcontext()


class _Still(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func._schema.name
        if name == "aten::native_dropout":
            return _dropped(*args, **kwargs)
        with torch.random.fork_rng(devices=[]):  # an order (randperm) is drawn, the same each time
            torch.manual_seed(0)
            out = func(*args, **kwargs)
        if name in ("aten::bernoulli", "aten::bernoulli_"):
            return out.copy_(_happens(args))
        if name in _DRAWS:
            return out.fill_(_NUMBER if out.is_floating_point() else 0)
        if name == "aten::normal":  # (mean, spread), numbers or tensors
            return out.copy_(torch.as_tensor(args[0] + _NUMBER * args[1]))
        return out


def _happens(args: Sequence[Any]) -> Tensor:
    """Of (x, p), or of (p) alone."""
    chance = args[1] if len(args) > 1 and args[1] is not None else args[0]
    return torch.as_tensor(chance) > _LIKELY


def _dropped(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Nothing is dropped, and what stays is scaled as ever."""
    kept = torch.ones_like(x, dtype=torch.bool)
    return (x / (1 - p) if train and p < 1 else x.clone()), kept
