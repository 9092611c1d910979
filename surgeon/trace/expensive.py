"""What a call of an op would cost: FLOPs of products and convolutions, as torch itself counts them, and room for its result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

_GREAT = 1 << 16  # of one size
_FAR_MORE = 4  # times


def foreseen(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, int] | None:
    """A meta tensor like the result, and the FLOPs that it takes; None for ops that are not counted, and where
    an operand has no shape alone (a sparse one)."""
    count = flop_registry.get(func.overloadpacket)
    if count is None or func._schema.is_mutable:
        return None
    leaves = tree_leaves((args, kwargs))
    if any(isinstance(x, Tensor) and x.layout is not torch.strided for x in leaves):
        return None
    like = func(*tree_map_only(Tensor, _shape, args), **tree_map_only(Tensor, _shape, kwargs))
    if not isinstance(like, Tensor):
        return None
    return like, count(*args, **kwargs, out_val=like)


def made_of_little(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many numbers an op makes in the first of its results, where it is given a great size and makes far more than it
    reads; 0 for others, and for views."""
    given = (*args, *kwargs.values())
    if not any(isinstance(x, (list, tuple)) and any(map(_is_great, x)) for x in given):
        return 0
    if any(result.alias_info for result in func._schema.returns):
        return 0
    try:
        # what watches the run is not to see this
        with _disable_current_modes():
            like = func(*tree_map_only(Tensor, _shape, args), **_on_meta(func, kwargs))
    except (NotImplementedError, RuntimeError):  # not without numbers
        return 0
    made = next((x.numel() for x in tree_leaves(like) if isinstance(x, Tensor)), 0)
    read = sum(x.numel() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    return made if made > _FAR_MORE * read else 0


def _on_meta(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    device = {a.name: "meta" for a in func._schema.arguments if a.name == "device"}
    return {**tree_map_only(Tensor, _shape, kwargs), **device}


def _is_great(size: Any) -> bool:
    return type(size) is int and size >= _GREAT


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
