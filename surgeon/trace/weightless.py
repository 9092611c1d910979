"""Modules built without weights: what layers allocate goes to the meta device, what is computed stays real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Weightless(TorchFunctionMode):
    """Layers built under this have shapes and no weights.

    Only what layers allocate goes to the meta device: RegNet computes its widths with tensors, and
    rotary frequencies are buffers. Hugging Face asks an empty tensor where layers are put, and fills none that
    are on meta.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:  # fills what it is given
            filled = kwargs.get("tensor", args[0] if args else None)
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        asked = func is torch.tensor and len(args) == 1 and type(args[0]) is list and not args[0]
        if (asked or func is torch.empty) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
