"""The same results sooner: ops of a run that torch computes in more passes than its numbers need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


class Quick(TorchDispatchMode):
    """Entered before the modes that watch a run: they see the op that was called."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is aten._safe_softmax.default:
            return _safe_softmax(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """x: [..., N, ...] -> its softmax along `dim`. torch looks for slices of nothing but -inf, whose softmax is all
    NaN; they are all zeros here. Such slices show in the first place of the result."""
    out = aten._softmax.default(x if dtype is None else x.to(dtype), dim, False)
    if x.dim() and x.numel() and bool(out.select(dim, 0).isnan().any()):
        return aten._safe_softmax.default(x, dim, dtype)
    return out
