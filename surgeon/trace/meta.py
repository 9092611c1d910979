"""One op on meta tensors among which integers are real, as they are indices; so is what it gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from surgeon.trace.shapes import known
from surgeon.trace.tensors import tensors_among

_ALIKE = {"zeros", "ones", "full", "empty", "rand", "randn"}
_READS_INTEGERS = {torch.ops.aten._pack_padded_sequence.default}  # real ones, beside meta floats


class ValuesLost(Exception):
    """Numbers became a meta tensor, or are written into a real one: only real tensors show them."""


def run_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the op gives. Raises ValuesLost where only real tensors would show it."""
    tensors = list(tensors_among(args))
    if not tensors:
        return func(*args, **_made(func, args, kwargs))
    if func in _READS_INTEGERS:
        return func(*args, **kwargs)
    if func is torch.ops.aten.lift_fresh.default and tensors[0].is_meta:
        raise ValuesLost  # x[:, [2, 0]]: torch made the list a tensor on x's own device
    meta = sum(t.is_meta for t in tensors)
    if meta == len(tensors):
        quick = known(func, args, kwargs)
        if quick is not None:
            return quick
    if meta in (0, len(tensors)):
        return func(
            *args, **({**kwargs, "device": "cpu"} if _goes_to_meta(meta, kwargs) else kwargs)
        )
    if func._schema.is_mutable and not tensors[0].is_meta and tensors[0].is_floating_point():
        raise ValuesLost  # what is written would not be seen
    return func(*tree_map_only(Tensor, _as_meta, args), **tree_map_only(Tensor, _as_meta, kwargs))


def _goes_to_meta(meta: int, kwargs: dict[str, Any]) -> bool:
    """A real integer tensor moved to the (meta) device of an activation stays real."""
    return not meta and str(kwargs.get("device")) == "meta" and not _is_float(kwargs.get("dtype"))


def _made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Where a tensor is made: integers for real, as they are indices; floats that are all alike (the
    first state of a recurrent net) beside the activations, wherever the code puts them."""
    if str(kwargs.get("device")) != "meta":
        alike = func.overloadpacket.__name__ in _ALIKE and _is_float(_made_dtype(args, kwargs))
        return {**kwargs, "device": "meta"} if alike else kwargs
    dtype = kwargs.get("dtype")
    if dtype is None:
        name = func.overloadpacket.__name__
        integers = name == "arange" and all(isinstance(a, int) for a in args)
    else:
        integers = not _is_float(dtype)
    return {**kwargs, "device": "cpu"} if integers else kwargs


def _made_dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype:
    """What a factory makes: as asked, of the kind of the value it fills in, or the default."""
    given = kwargs.get("dtype")
    fill = args[1] if len(args) > 1 and type(args[1]) in (bool, int) else None
    return given or (torch.get_default_dtype() if fill is None else torch.int64)


def _is_float(dtype: torch.dtype | None) -> bool:
    return dtype is not None and (dtype.is_floating_point or dtype.is_complex)


def _as_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta or tensor.dim() == 0 else tensor.to("meta")
