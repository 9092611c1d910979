"""The recorder's quick shapes are torch's own: size, stride and dtype, op by op; misfits stay torch's to refuse."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from surgeon.trace.shapes import KNOWN, known

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def layouts() -> Iterator[Tensor]:
    """Tensors laid out in every way that networks meet."""
    x = meta(2, 6, 4, 5)
    yield x
    yield x.to(memory_format=torch.channels_last)
    yield x.permute(0, 2, 3, 1)
    yield x.permute(3, 1, 0, 2)
    yield x[:, ::2]
    yield x[:, 1:2]
    yield x[..., 1:3]
    yield x[:, 1:4, 1:]
    yield x.transpose(1, 2)[:, :, 1:]
    yield meta(2, 1, 4, 5).expand(2, 6, 4, 5)
    yield meta(2, 6, 1, 1)
    yield meta(2, 1, 4, 5).to(memory_format=torch.channels_last)
    yield meta(6)
    yield meta()
    yield meta(0, 3)
    yield meta(2, 6, 4, 5, dtype=torch.bfloat16)
    yield meta(2, 6, 4, 5, dtype=torch.int64)


def pairs() -> Iterator[tuple[Any, Any]]:
    for x in layouts():
        yield x, x
        yield x, 2
        yield x, 0.5
        yield x, torch.empty_like(x)
        yield torch.empty_like(x), x
        for shape in (
            (6, 1, 1),
            (2, 1, 1, 5),
            (5,),
            (1, 1, 1, 1),
            (2, 6, 4, 5),
            (),
            (3, 4),
            (7, 2, 6, 4, 5),
        ):
            yield x, meta(*shape)
            yield meta(*shape), x
        yield x, meta(5, dtype=torch.float64)


UNARY = "hardtanh relu sigmoid tanh silu hardswish hardsigmoid leaky_relu".split()
WITH_NOTHING = [*UNARY, "gelu", "elu", "exp", "sqrt", "rsqrt", "neg", "abs", "sin", "cos"]


def calls() -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:  # noqa: C901
    """Calls of every op that has a quick shape."""
    for x in layouts():
        for name in (*WITH_NOTHING, *(f"{u}_" for u in UNARY)):
            yield getattr(aten, name).default, (x,), {}
        yield aten.hardtanh.default, (x, 0.0, 6.0), {}
        yield aten.gelu.default, (x,), {"approximate": "tanh"}
        yield aten.clamp_min.default, (x, 0.1), {}
        yield aten.mul.Scalar, (x, 2), {}
        yield aten.add.Scalar, (x, 0.5), {}
        yield aten.pow.Tensor_Scalar, (x, 2), {}
        yield aten.roll.default, (x, [1], [0]), {}
        for dims in ([0], [-1], [1, 2], [2, 3], [-1, -2], None):
            for keep in (True, False):
                yield aten.mean.dim, (x, dims, keep), {}
        if x.dim():
            yield aten._softmax.default, (x, -1, False), {}
            yield aten._safe_softmax.default, (x, -1), {}
            yield aten.native_layer_norm.default, (x, [x.shape[-1]], None, None, 1e-5), {}
            w = meta(x.shape[-1])
            yield aten.native_layer_norm.default, (x, [x.shape[-1]], w, w, 1e-5), {}
            yield aten.native_layer_norm.default, (x, [7], None, None, 1e-5), {}
        if x.dim() > 1:
            c = meta(x.shape[1])
            yield aten.native_batch_norm.default, (x, c, c, c, c, False, 0.1, 1e-5), {}
            yield aten.native_batch_norm.default, (x, None, None, c, c, False, 0.1, 1e-5), {}
            yield aten.native_batch_norm.default, (x, meta(9), c, c, c, False, 0.1, 1e-5), {}
        for d in (0, 1, -1, 9):
            yield aten.stack.default, ([x, torch.empty_like(x)], d), {}
    for x, y in pairs():
        for name in "add sub mul div".split():
            yield getattr(aten, name).Tensor, (x, y), {}
            if isinstance(x, Tensor):
                yield getattr(aten, f"{name}_").Tensor, (x, y), {}
    yield from contractions()


def contractions() -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    for x in layouts():
        for out, each, groups, kernel in (
            (4, 6, 1, 3),
            (6, 1, 6, 1),
            (4, 3, 2, 2),
            (4, 5, 1, 3),
            (4, 6, 1, 9),
        ):
            w = meta(out, each, kernel, kernel)
            for bias in (None, meta(out)):
                how = ([2, 1], [1, 0], [1, 1], False, [0, 0], groups)
                yield aten.convolution.default, (x, w, bias, *how), {}
    yield (
        aten.convolution.default,
        (meta(2, 6, 9), meta(4, 6, 3), None, [1], [0], [2], False, [0], 1),
        {},
    )
    yield (
        aten.convolution.default,
        (meta(2, 6, 9), meta(6, 4, 3), None, [1], [0], [1], True, [0], 1),
        {},
    )
    for a, b in (((3, 4), (4, 5)), ((3, 4), (5, 4)), ((0, 4), (4, 5))):
        for bias in ((5,), (1,), (3, 5), ()):
            yield aten.addmm.default, (meta(*bias), meta(*a), meta(*b)), {}
        yield aten.addmm.default, (meta(5), meta(*a), meta(*b, dtype=torch.float64)), {}
        yield aten.bmm.default, (meta(2, *a), meta(2, *b)), {}
        yield aten.bmm.default, (meta(2, *a).transpose(1, 2), meta(2, *a)), {}
        yield aten.bmm.default, (meta(3, *a), meta(2, *b)), {}


def described(found: Any) -> Any:
    if isinstance(found, (tuple, list)):
        return [described(t) for t in found]
    return found.dtype, tuple(found.shape), tuple(found.stride()) if found.numel() > 1 else None


def test_every_quick_shape_is_torchs_own_or_left_to_torch():
    seen: dict[Any, int] = dict.fromkeys(KNOWN, 0)
    for func, args, kwargs in calls():
        quick = known(func, args, kwargs)
        if quick is None:
            continue
        seen[func] += 1
        want = func(*args, **kwargs)
        assert described(quick) == described(want), (func, [str(a) for a in args], kwargs)
    assert all(seen.values()), [str(f) for f, n in seen.items() if not n]


@pytest.mark.parametrize("name", ["add.Tensor", "addmm", "bmm", "convolution", "native_layer_norm"])
def test_what_does_not_fit_is_not_answered(name: str):
    packet, _, overload = name.partition(".")
    func = getattr(getattr(aten, packet), overload or "default")
    refused = 0
    for op, args, kwargs in calls():
        if op is not func:
            continue
        try:
            func(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError):
            refused += 1
            assert known(func, args, kwargs) is None
    assert refused and math.isfinite(refused)
