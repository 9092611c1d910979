"""A tensor read by strides: dimensions that the strides leave whole pass, the others are windows of positions.

    x[b, 12, d] --as_strided((b, 3, 6, d), (12d, 3d, d, 1))--> windows of 6 tokens, in steps of 3

A dimension is whole where no step along another one is a step along it, nor do all of them together carry into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from surgeon.axes import Dims, opaque
from surgeon.graph import Value
from surgeon.rules.registry import Site, moves


@moves("aten.as_strided")
def as_strided(site: Site) -> Dims:
    """dimensions that the strides leave whole pass; the others are read by position"""
    value, node = site.node.args[0], site.node
    shape, stride = node.args[1:3]
    same = [(a, b) for n, a, b in zip(shape, stride, value.stride, strict=False) if n != 1]
    if tuple(shape) == value.shape and all(a == b for a, b in same):
        return site.x
    whole = whole_dims(value.shape, value.stride, shape, stride) if not node.arg(3) else {}
    for d, dim in enumerate(site.x):
        if d not in whole.values():
            site.algebra.freeze(dim, f"{node.op} reads it by position")
    why = f"meets positions that {node.op} makes, which stay"
    new = (opaque(n, why, site.algebra.where) for n in shape)
    return tuple(site.x[whole[j]] if j in whole else made for j, made in enumerate(new))


def packed(shape: Sequence[int], like: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor without gaps, whose dimensions lie in memory in the order of the strides `like`."""
    out, at = [0] * len(shape), 1
    for d in sorted(range(len(shape)), key=lambda d: (like[d], -d)):
        out[d], at = at, at * shape[d]
    return tuple(out)


def whole_dims(
    given: Sequence[int], steps: Sequence[int], shape: Sequence[int], stride: Sequence[int]
) -> dict[int, int]:
    """Output dimension -> the input dimension that it is, whole; of a tensor without gaps, where every other
    stride is so many steps along a dimension that is not whole."""
    if tuple(steps) != packed(given, steps) or 0 in (*given, *shape):
        return {}
    if sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) >= prod(given):
        return {}
    found: dict[int, int] = {}
    for i, (n, step) in enumerate(zip(given, steps, strict=True)):
        for j, (m, s) in enumerate(zip(shape, stride, strict=True)):
            others = [(shape[k], stride[k]) for k in range(len(shape)) if k != j]
            if (n, step) == (m, s) and n > 1 and _untouched(n, step, others):
                found[j] = i
    moved = [s for j, s in enumerate(stride) if j not in found and shape[j] > 1]
    return found if all(_steps(s, steps, found) is not None for s in moved) else {}


def _untouched(size: int, step: int, others: Sequence[tuple[int, int]]) -> bool:
    """Whether the others, (size, stride) each, move by whole multiples of a dimension, or together by less
    than one step along it."""
    inner = [(n - 1) * s for n, s in others if s % (size * step)]
    return sum(inner) < step


def new_strides(
    x: Value, shape: Sequence[int], stride: Sequence[int], new: Sequence[int]
) -> list[int]:
    """The strides for an input that has the shape `new` instead of that of x."""
    now = packed(new, x.stride)
    whole = whole_dims(x.shape, x.stride, shape, stride)
    out = []
    for j, s in enumerate(stride):
        at = whole.get(j, _steps(s, x.stride, whole))
        out.append(s if at is None else s // x.stride[at] * now[at])
    return out


def _steps(stride: int, steps: Sequence[int], whole: dict[int, int]) -> int | None:
    """The dimension along which a stride takes whole steps: the one of the longest that is not whole."""
    fit = (i for i, step in enumerate(steps) if step <= stride and stride % step == 0)
    return max((i for i in fit if i not in whole.values()), key=lambda i: steps[i], default=None)
