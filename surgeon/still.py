"""Random numbers held still: what a forward draws is the same in a network and in its cut copy.

Two runs draw two sequences, and a cut copy, which draws fewer numbers, a third. A draw that has one shape in both
is drawn with one seed in both. Of any other it is not known which numbers went: there one number stands in the
place of each, since drawn numbers are alike wherever they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

_T = TypeVar("_T")
Draw = tuple[int, tuple[int, ...]]  # which draw of a forward it is, and its shape


@dataclass
class Held:
    """How draws are held: those of `alike` by a seed, the others by one number. `drawn` are all that were seen."""

    alike: Collection[Draw] = ()
    drawn: list[Draw] = field(default_factory=list)


_HELD: ContextVar[Held | None] = ContextVar("held", default=None)


@contextmanager
def held_still(alike: Collection[Draw] = ()) -> Iterator[Held]:
    """Inside, `drawing` holds random numbers still."""
    held = Held(alike)
    token = _HELD.set(held)
    try:
        yield held
    finally:
        _HELD.reset(token)


def seen_drawing(run: Callable[[], _T]) -> tuple[_T, bool]:
    """What `run` gives, and whether it drew random numbers that nothing holds still."""
    if _HELD.get() is not None:
        return run(), False
    with held_still() as held:
        return run(), bool(held.drawn)


def drawing() -> AbstractContextManager[Any]:
    """What one forward is run in, before any mode that watches it: this one is asked last."""
    held = _HELD.get()
    return nullcontext() if held is None else _Still(held)


class _Still(TorchDispatchMode):
    def __init__(self, held: Held) -> None:
        super().__init__()
        self._held = held
        self._count = 0

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
            torch.manual_seed(self._count)
            out = func(*args, **kwargs)
        return out if self._alike(out) else _constant(name, args, out)

    def _alike(self, out: Any) -> bool:
        """Whether both networks draw this; written down."""
        draw = self._count, tuple(out.shape) if isinstance(out, Tensor) else ()
        self._count += 1
        self._held.drawn.append(draw)
        return draw in self._held.alike


def _constant(name: str, args: Sequence[Any], out: Any) -> Any:
    """One number in the place of each that was drawn."""
    if name in ("aten::bernoulli", "aten::bernoulli_"):
        return out.copy_(_happens(name, args))
    if name in _DRAWS:
        return out.fill_(_NUMBER if out.is_floating_point() else 0)
    if name == "aten::normal":  # (mean, spread), numbers or tensors
        return out.copy_(torch.as_tensor(args[0] + _NUMBER * args[1]))
    return out


def _happens(name: str, args: Sequence[Any]) -> Tensor:
    """Of (x, p), or of (p) alone; in place of (x) alone where p is what it is by default, as nobody is told then."""
    alone = 0.5 if name == "aten::bernoulli_" else args[0]
    chance = args[1] if len(args) > 1 and args[1] is not None else alone
    return torch.as_tensor(chance) > _LIKELY


def _dropped(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """Nothing is dropped, and what stays is scaled as ever."""
    kept = torch.ones_like(x, dtype=torch.bool)
    return (x / (1 - p) if train and p < 1 else x.clone()), kept
