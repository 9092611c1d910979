"""What some ops give on meta tensors, without the slow decomposition that torch would run for it.

Batch norm's meta kernel takes half a millisecond of Python for a shape that is the input's own, a
sigmoid's nearly as long. Each entry is tested against torch's own result; an op that is not here, or
a call that is not plainly the usual one, runs as torch runs it, and torch refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
Quick = Callable[..., Any]  # the op's result, or None where torch must say
KNOWN: dict[Any, Quick] = {}
_FULL = (torch.float32, torch.float64)  # others keep their statistics in another precision


def known(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The op's result, or None where torch must say."""
    quick = KNOWN.get(func)
    if quick is None or not isinstance(args[0], (Tensor, list)):
        return None
    return quick(*args, **kwargs)


def _knows(*names: str) -> Callable[[Quick], Quick]:
    def register(quick: Quick) -> Quick:
        for name in names:
            packet, _, overload = name.partition(".")
            KNOWN[getattr(getattr(aten, packet), overload or "default")] = quick
        return quick

    return register


@_knows(
    "gelu", "hardtanh", "relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "leaky_relu",
    "elu", "exp", "sqrt", "rsqrt", "neg", "abs", "sin", "cos", "clamp_min", "mul.Scalar", "add.Scalar",
    "pow.Tensor_Scalar",
)  # fmt: skip
def _pointwise(x: Tensor, *rest: Any, **options: Any) -> Tensor | None:
    plain = x.is_floating_point() and not options and all(type(a) in (int, float) for a in rest)
    return _like(x) if plain else None


@_knows(
    "hardtanh_", "relu_", "sigmoid_", "tanh_", "silu_", "hardswish_", "hardsigmoid_", "leaky_relu_"
)
def _in_place(x: Tensor, *rest: Any) -> Tensor | None:
    return x if x.is_floating_point() and all(type(a) in (int, float) for a in rest) else None


@_knows("_softmax", "_safe_softmax")
def _softmax(x: Tensor, _dim: int, other: Any = None) -> Tensor | None:
    return torch.empty_like(x) if not other and x.is_floating_point() and _in_order(x) else None


@_knows("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor")
def _two(x: Tensor, y: Any, **options: Any) -> Tensor | None:
    if type(y) in (int, float):
        return _pointwise(x, y, **options)
    if options or not (isinstance(y, Tensor) and _both_float(x, y)):
        return None
    if x.shape == y.shape and x.stride() == y.stride():
        return _like(x)
    if x.shape == y.shape and _descends(x) and _descends(y):
        return x.new_empty(x.shape)
    shape = _broadcast(x.shape, y.shape)
    return x.new_empty(shape) if shape and _in_order(x) and _in_order(y) else None


@_knows("add_.Tensor", "sub_.Tensor", "mul_.Tensor", "div_.Tensor")
def _two_in_place(x: Tensor, y: Any, **options: Any) -> Tensor | None:
    if type(y) in (int, float):
        return _in_place(x) if not options else None
    fits = isinstance(y, Tensor) and _both_float(x, y) and x.shape == y.shape
    return x if fits and not options else None


@_knows("convolution")
def _convolution(x: Tensor, w: Tensor, bias: Tensor | None, *how: Any) -> Tensor | None:
    stride, padding, dilation, transposed, _, groups = how
    count = x.dim() - 2
    lists = all(len(a) == count for a in (stride, padding, dilation))
    if transposed or not lists or w.dim() != x.dim() or not _both_float(x, w):
        return None
    if w.shape[1] * groups != x.shape[1] or w.shape[0] % groups or not x.numel():
        return None
    if bias is not None and bias.shape != w.shape[:1]:
        return None
    each = zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each]
    return x.new_empty((x.shape[0], w.shape[0], *space)) if min(space, default=1) > 0 else None


@_knows("native_batch_norm")
def _batch_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    given = [t for t in args[:4] if t is not None]
    if not all(t.shape == (x.shape[1],) and t.dtype == x.dtype for t in given) or not _dense(x):
        return None
    if not x.is_floating_point():
        return None
    kept = x.new_empty(x.shape[1])
    return torch.empty_like(x), kept, torch.empty_like(kept)


@_knows("native_layer_norm")
def _layer_norm(x: Tensor, shape: list[int], *args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    own, given = tuple(shape), [t for t in args[:2] if t is not None]
    if not all(t.shape == own and t.dtype == x.dtype for t in given):
        return None
    if x.shape[-len(own) :] != own or x.dtype not in _FULL:
        return None
    if x.is_contiguous() and not _in_order(x):
        return None
    kept = x.new_empty(x.shape[: x.dim() - len(own)] + (1,) * len(own))
    return x.new_empty(x.shape), kept, torch.empty_like(kept)


@_knows("addmm")
def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_options: Any) -> Tensor | None:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0]
    if not fits or not a.dtype == b.dtype == bias.dtype or bias.shape[-1:] != b.shape[1:]:
        return None
    return a.new_empty(a.shape[0], b.shape[1]) if bias.dim() == 1 else None


@_knows("bmm")
def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1]
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2]) if fits and _both_float(a, b) else None


@_knows("stack")
def _stack(each: list[Tensor], dim: int = 0) -> Tensor | None:
    first = each[0]
    if not all(_both_float(first, t) and t.shape == first.shape for t in each):
        return None
    if not all(_in_order(t) for t in each) or not -first.dim() - 1 <= dim <= first.dim():
        return None
    shape = list(first.shape)
    shape.insert(dim % (first.dim() + 1), len(each))
    return first.new_empty(shape)


@_knows("roll")
def _roll(x: Tensor, _shifts: list[int], dims: Sequence[int] = ()) -> Tensor | None:
    fits = dims and all(-x.dim() <= d < x.dim() for d in dims) and len(_shifts) == len(dims)
    return torch.empty_like(x) if fits and _in_order(x) else None


@_knows("mean.dim")
def _mean(x: Tensor, dims: list[int] | None, keepdim: bool = False, **how: Any) -> Tensor | None:
    if not dims or how or not x.is_floating_point() or not _in_order(x):
        return None
    over = {d % x.dim() for d in dims if -x.dim() <= d < x.dim()}
    if len(over) != len(dims):
        return None
    kept = [1 if d in over else n for d, n in enumerate(x.shape) if keepdim or d not in over]
    return x.new_empty(kept)


def _both_float(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.is_floating_point()


def _like(x: Tensor) -> Tensor | None:
    """Laid out as x is, without what x skips."""
    if _dense(x):
        return torch.empty_like(x)
    return x.new_empty(x.shape) if _descends(x) else None


def _descends(x: Tensor) -> bool:
    """Whether each dimension's stride is above the next one's: a slice of a tensor that is in order."""
    strides = x.stride()
    falls = all(a > b for a, b in pairwise(strides))
    return falls and 1 not in x.shape and 0 not in x.shape and 0 not in strides


def _dense(x: Tensor) -> bool:
    """Whether no element is skipped or shared: a result like it is laid out as it is."""
    need = 1
    for stride, n in sorted(zip(x.stride(), x.shape, strict=True)):
        if n != 1:
            if stride != need:
                return False
            need *= n
    return True


def _in_order(x: Tensor) -> bool:
    """Whether the strides are those of a new tensor, to the last dimension of one."""
    need = 1
    for stride, n in zip(reversed(x.stride()), reversed(x.shape), strict=True):
        if stride != need:
            return False
        need *= max(n, 1)
    return True


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    if len(a) < len(b):
        a, b = b, a
    b = (*(1,) * (len(a) - len(b)), *b)
    fits = all(m == n or 1 in (m, n) for m, n in zip(a, b, strict=True))
    return [n if m == 1 else m for m, n in zip(a, b, strict=True)] if fits else None
