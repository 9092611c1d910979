"""Elements by position: lists of positions, and masks of truths.

A mask over each element that is the same along the last dimensions, as `mask[..., None].expand_as(x)` is, takes these
whole: x[b, 12, d], 6 of 24 tokens --> [(6 d)].
"""

from __future__ import annotations

from math import prod

from surgeon.axes import Dim, Dims, size_of
from surgeon.graph import Node, Value
from surgeon.rules.registry import Site, moves

_TRUTHS = ("b1", "u8")


@moves("aten.index_select")
def index_select(site: Site) -> Dims:
    """elements of one dimension by a list of positions"""
    index = site.node.args[2].constant
    dim = site.axis(1)
    if index is None:
        for d in site.dims(site.node.args[2]):
            site.algebra.freeze(d, "indexes by position")
        return site.by_position(dim, site.made(site.shape()[dim]))
    return site.take(dim, index.numpy())


@moves("aten.index")
def index(site: Site) -> Dims:
    """elements by constant positions along one dimension; by position along several, or a mask"""
    x, indices = site.x, list(site.node.args[1])
    used = [i for i, v in enumerate(indices) if v is not None]
    if len(used) == 1 and _is_constant(indices[used[0]]):
        positions = indices[used[0]].constant.numpy() % max(size_of(x[used[0]]), 1)
        return site.take(used[0], positions)
    if rows := _rows(site, indices, site.shape()[0]):
        return (rows,)
    rest, at, count = _indexed(site, x, indices)
    new = [site.made(n) for n in site.shape()[at : at + count]]
    return tuple(rest[:at] + new + rest[at:])


@moves("aten.index_put")
def index_put(site: Site) -> Dims:
    """values written to positions along some dimensions; the others are the values' own

    One number that is written where a mask over all elements says so fills, as masked_fill does.
    """
    x, values = site.x, site.dims(site.node.args[2])
    if (mask := _over_all(site.node)) is not None:
        for mine, theirs in zip(x, site.dims(mask), strict=True):
            site.algebra.equate(mine, theirs)
        return x
    if len(values) == 1 and (rows := _rows(site, site.node.args[1], size_of(values[0]))):
        site.algebra.equate(rows, values[0])
        return x
    rest, at, count = _indexed(site, x, list(site.node.args[1]))
    written = rest[:at] + [()] * count + rest[at:]
    for mine, theirs in zip(reversed(written), reversed(values), strict=False):
        if mine and size_of(mine) == size_of(theirs):
            site.algebra.equate(mine, theirs)
        else:
            site.algebra.freeze(theirs, "written by position")
    return x


def _over_all(node: Node) -> Value | None:
    """The mask over each element of x by which one number is written; None where that is not so."""
    x, indices, values = node.args[:3]
    mask = indices[0] if len(indices) == 1 else None
    fills = mask is not None and mask.dtype in _TRUTHS and mask.shape == x.shape
    return mask if fills and prod(values.shape) == 1 else None


def _indexed(site: Site, x: Dims, indices: list[Value | None]) -> tuple[list[Dim], int, int]:
    """What several indices, or a mask, leave of x: the dimensions that stay, the place among them of
    those that the indices make, and how many these are. What is indexed is frozen."""
    rest: list[Dim] = []
    read, made = 0, 0
    for index in indices:
        if index is None:
            rest.append(x[read])
            read += 1
            continue
        rank = len(index.shape) if index.dtype in _TRUTHS else 1  # a mask covers its own rank
        made = max(made, 1 if index.dtype in _TRUTHS else len(index.shape))
        for dim in (*x[read : read + rank], *site.dims(index)):
            site.algebra.freeze(dim, "indexed by position")
        read += rank
    used = [i for i, v in enumerate(indices) if v is not None]
    adjacent = used == list(range(used[0], used[0] + len(used)))
    return [*rest, *x[read:]], used[0] if adjacent else 0, made


def _whole(site: Site, mask: Value) -> int:
    """Along how many of the last dimensions a mask over each element of x is the same."""
    if mask.dtype not in _TRUTHS or len(mask.shape) != len(site.x):
        return 0
    same = [step == 0 or size == 1 for size, step in zip(mask.shape, mask.stride, strict=True)]
    return [*reversed(same), False].index(False)


def _rows(site: Site, indices: list[Value | None], size: int) -> Dim:
    """Of one such mask the positions that it leaves times the dimensions that it takes whole, `size` in all; () where it takes
    none, or there are no such rows (one number for all of them)."""
    x, mask = site.x, indices[0]
    whole = _whole(site, mask) if len(indices) == 1 and mask is not None else 0
    first = len(x) - whole
    width = prod(map(size_of, x[first:]))
    if mask is None or not whole or size % max(width, 1):
        return ()
    truths = site.dims(mask)
    for dim in (*x[:first], *truths[:first]):
        site.algebra.freeze(dim, "indexed by position")
    for mine, theirs in zip(x[first:], truths[first:], strict=True):
        site.algebra.equate(mine, theirs)
    return sum(x[first:], site.made(size // max(width, 1)))


def _is_constant(value: Value) -> bool:
    return value.constant is not None and len(value.shape) == 1 and value.dtype != "b1"
