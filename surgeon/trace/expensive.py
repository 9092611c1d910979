"""Which calls of ops cost something: products of matrices and convolutions, as torch itself counts them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry


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


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
