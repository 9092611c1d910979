"""What a network decides by value: written down in the masked original, followed by the cut model.

Sorting, the largest, what is not zero, which boxes overlap, a number read into Python: each makes whole
numbers of real ones, so that rounding can turn a tie round. The values that were decided on are compared,
the decision is the original's. So are values that end here: a threshold that nothing passes leaves empty
outputs, which say nothing about the network before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from surgeon.errors import CheckFailed

Kept = Callable[[Tensor], Tensor]  # the part of a tensor that the cut model has, flat

_INDICES = {
    "aten::topk",
    "aten::sort",
    "aten::max",
    "aten::min",
}  # (values, where), along a dimension
_POSITIONS = {
    "torchvision::nms", "aten::nonzero", "aten::argmax", "aten::argmin", "aten::_local_scalar_dense",
    "aten::equal", "aten::allclose",
}  # fmt: skip


_READ = "aten._local_scalar_dense.default"
_CHOOSING = {
    "aten::topk", "aten::sort", "aten::argsort", "aten::argmax", "aten::argmin", "aten::nonzero",
    "torchvision::nms",
}  # fmt: skip

_COUNTING = {
    "aten::nonzero", "torchvision::nms", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One decision: the op, the real numbers that it read, and what it decided (None: nothing to follow)."""

    op: str
    read: tuple[Tensor, ...]
    decided: Any = None


def choice(func: Any, given: Sequence[Any], out: Any, kept: Kept) -> Choice | None:
    """What an op decided, or None where it decides nothing and loses nothing."""
    name = func._schema.name
    floats = [t for t in _tensors(given) if t.is_floating_point() and t.numel()]
    if name in _INDICES and isinstance(out, (tuple, list)) and len(out) == 2:
        return Choice(str(func), _flat(floats, kept), kept(out[1]))
    if name in _POSITIONS:
        read = floats or [t for t in _tensors(given) if t.numel()]
        return Choice(str(func), _flat(read, kept), kept(out) if isinstance(out, Tensor) else out)
    # spare results may be empty: batch norm's saved statistics in eval mode
    made = _tensors([out])
    lost = (made and not any(t.numel() for t in made)) or _by_mask(name, given)
    return Choice(str(func), _flat(floats, kept)) if lost and floats else None


def decides(func: Any, given: Sequence[Any]) -> bool:
    """Whether an op says by value which rows there are, or in which order."""
    return func._schema.name in _CHOOSING or _by_mask(func._schema.name, given)


def counts(func: Any, given: Sequence[Any]) -> bool:
    """Whether how much an op gives depends on values: code may look at the shape of that, and skip what is behind."""
    return func._schema.name in _COUNTING or _by_mask(func._schema.name, given)


def _by_mask(name: str, given: Sequence[Any]) -> bool:
    masks = [t for t in _tensors(given[1:]) if t.dtype == torch.bool]
    return bool(masks) and name in ("aten::index", "aten::masked_select")


def _flat(tensors: Sequence[Tensor], kept: Kept) -> tuple[Tensor, ...]:
    return tuple(kept(t) for t in tensors)


def _tensors(given: Sequence[Any]) -> list[Tensor]:
    return [t for t in tree_leaves(list(given)) if isinstance(t, Tensor)]


@dataclass
class Follow(TorchDispatchMode):
    """Runs the cut model with the original's decisions. `pairs` are the values that they were made on:
    the original's and the cut model's."""

    choices: Sequence[Choice]
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._made = [c for c in self.choices if c.decided is not None][::-1]
        self._lost = [c for c in self.choices if c.decided is None][::-1]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = (*args, *(kwargs or {}).values())
        out = func(*args, **(kwargs or {}))
        own = choice(func, given, out, lambda t: t.flatten().clone())
        if own is not None and own.decided is None:
            self._compared(own)
        elif own is not None:
            return self._followed(own, args, kwargs or {}, out)
        return out

    def _compared(self, own: Choice) -> None:
        """Values that end here. A run of channels that all went is empty in the cut model alone."""
        if self._lost and self._lost[-1].op == own.op and _sizes(self._lost[-1]) == _sizes(own):
            self.pairs += zip(self._lost.pop().read, own.read, strict=True)

    def _followed(self, own: Choice, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
        self._skip_idle(own)
        known = self._made.pop() if self._made else None
        if known is None or known.op != own.op or _sizes(known) != _sizes(own):
            raise Astray(f"the cut model decides at {own.op}, where the original did not")
        if _is_size(known, own):
            return out
        self.pairs += zip(known.read, own.read, strict=True)
        return _decided(known, args, kwargs, out)

    def _skip_idle(self, own: Choice) -> None:
        """Pass over numbers that only the original reads: a program leaves checks out, and what is the same for all
        inputs. In a row of reads the type tells, of whole numbers, which no rounding changes, the number too."""
        row = list(takewhile(lambda c: c.op == own.op == _READ, reversed(self._made)))
        fits = [n for n, c in enumerate(row) if type(c.decided) is type(own.decided)]
        same = [n for n in fits if type(own.decided) is int and _numbers(row[n]) == _numbers(own)]
        for _ in range(next(iter(same or fits), 0)):
            self._made.pop()


class Astray(CheckFailed):
    """The cut model decides something else, or at another point, than the original did."""


def _sizes(made: Choice) -> list[int]:
    return [t.numel() for t in made.read]


def _numbers(made: Choice) -> list[Any]:
    """What was read, whatever number another path has in its place."""
    return [t.tolist() for t in made.read]


def _is_size(known: Choice, own: Choice) -> bool:
    """Whether a number that is read may be a width, another one in the cut model: no rounding changes a whole number,
    so that each keeps its own. One that was forced on the original is followed."""
    whole = own.op == _READ and type(own.decided) is int
    return whole and all(t.tolist() == [known.decided] for t in known.read)


def _decided(known: Choice, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """The op's result with the original's decision in it."""
    if known.decided is None:
        return out
    if isinstance(out, (tuple, list)):
        where = known.decided.to(out[1].device)
        if where.numel() != out[1].numel():
            raise Astray(f"{known.op} gives {out[1].numel()} positions instead of {where.numel()}")
        where = where.reshape(out[1].shape)
        return type(out)((_taken(args[0], where, _dim(known.op, args, kwargs)), where))
    if not isinstance(out, Tensor):
        return known.decided
    if "nonzero" in known.op or "nms" in known.op:
        shape = (-1, *out.shape[1:])
        return known.decided.to(out.device).reshape(shape)
    if known.decided.numel() != out.numel():
        raise Astray(f"{known.op} gives {out.numel()} positions instead of {known.decided.numel()}")
    return known.decided.to(out.device).reshape(out.shape)


def _dim(op: str, args: Any, kwargs: dict[str, Any]) -> int:
    place = 2 if op.startswith("aten.topk") else 1
    default = args[place] if len(args) > place else -1
    return kwargs.get("dim", default)


def _taken(x: Tensor, where: Tensor, dim: int) -> Tensor:
    """Values of x at positions along `dim`, which a maximum may have dropped."""
    if not x.dim():
        return x.clone()
    if where.dim() < x.dim():
        return x.gather(dim, where.unsqueeze(dim)).squeeze(dim)
    return x.gather(dim, where)
