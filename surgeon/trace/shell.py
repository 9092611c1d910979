"""Copies of a model's structure: around other tensors (meta ones, clones), or around the very same."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain
from typing import Any

from torch import Tensor, nn

from surgeon.trace.copied import copied
from surgeon.trace.hooks import isolate
from surgeon.trace.modules import modules_of
from surgeon.trace.tensors import loose_of, state_of, tensors_of

_FEW = 4096  # elements of a constant that is kept real


def shell(
    model: nn.Module,
    swap: Callable[[Tensor], Tensor],
    constant: Callable[[Tensor], Tensor] | None = None,
    alike: Collection[int] = frozenset(),
) -> nn.Module:
    """A copy of the model's structure with every tensor swapped; parameters stay parameters.

    constant: what is done instead with tensors that no state dict holds, but for those `alike`, by id.
    """
    memo: dict[int, Any] = {}
    modules = modules_of(model)
    for own, change in ((state_of, swap), (loose_of, constant or swap)):
        for tensor in chain.from_iterable(map(own, modules)):
            if id(tensor) not in memo:
                memo[id(tensor)] = _swapped(tensor, swap if id(tensor) in alike else change)
    return _alone(model, memo)


def twin_of(model: nn.Module) -> nn.Module:
    """A copy of the model's structure around the very same tensors: a forward that sets attributes sets
    those of the copy."""
    return _alone(model, {id(t): t for m in modules_of(model) for t in tensors_of(m)})


def to_meta(tensor: Tensor) -> Tensor:
    """Floats without their values; integers as they are, in a copy that the forward may write to."""
    floats = tensor.is_floating_point() or tensor.is_complex()
    return tensor.to("meta") if floats else tensor.clone()


def valued(tensor: Tensor) -> Tensor:
    """As `to_meta`, but a few numbers that the network holds beside its state (the strides of a
    detector's levels) keep their values, which its Python may read."""
    return tensor.clone() if tensor.numel() <= _FEW else to_meta(tensor)


def _alone(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    twin = copied(model, memo)
    isolate(twin, memo)
    return twin


def _swapped(tensor: Tensor, swap: Callable[[Tensor], Tensor]) -> Tensor:
    new = swap(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=False)
    return new
