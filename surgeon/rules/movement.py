"""Ops that only move elements: they act on the algebra, no letters needed.

The docstring's first line is what `surgeon rules` prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from surgeon.axes import POSITION, Dim, Dims, opaque, size_of
from surgeon.graph import Node
from surgeon.rules.registry import Site, moves


@moves("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_alias", "aten.flatten")
def view(site: Site) -> Dims:
    """same elements, row-major, in another shape: products merge and split"""
    return site.algebra.reshape(site.x, site.shape())


@moves("aten.t", "aten.numpy_T")
def t(site: Site) -> Dims:
    """a b -> b a"""
    return site.x[::-1]


@moves("aten.transpose", "aten.swapaxes")
def transpose(site: Site) -> Dims:
    """two dimensions change places"""
    dims = list(site.x)
    a, b = site.axis(1), site.axis(2)
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


@moves("aten.permute")
def permute(site: Site) -> Dims:
    """dimensions change places"""
    x = site.x
    return tuple(x[d] for d in site.node.args[1])


@moves("aten.unsqueeze")
def unsqueeze(site: Site) -> Dims:
    """a new dimension of one"""
    dims = list(site.x)
    dims.insert(site.node.args[1] % (len(dims) + 1), ())
    return tuple(dims)


@moves("aten.squeeze")
def squeeze(site: Site) -> Dims:
    """dimensions of one go"""
    dims, over = site.x, site.node.arg(1)
    if over is None:
        over = range(len(dims))
    where = {d % len(dims) for d in ([over] if isinstance(over, int) else over)} if dims else set()
    return tuple(d for i, d in enumerate(dims) if i not in where or size_of(d) != 1)


@moves("aten.expand")
def expand(site: Site) -> Dims:
    """dimensions of one repeated: the copies are a new axis"""
    shape = site.shape()
    dims = ((),) * (len(shape) - len(site.x)) + site.x
    return tuple(
        d if size_of(d) == n else site.algebra.fresh(n, "expand")
        for d, n in zip(dims, shape, strict=True)
    )


@moves("aten.repeat", "aten.tile")
def repeat(site: Site) -> Dims:
    """each dimension n becomes (copies n): the copies are a new outer factor"""
    shape = site.shape()
    dims = ((),) * (len(shape) - len(site.x)) + site.x
    out = []
    for d, n in zip(dims, shape, strict=True):
        copies = n // max(size_of(d), 1)
        out.append((*site.algebra.fresh(copies, "repeat"), *d))
    return tuple(out)


@moves("aten.slice")
def slice_(site: Site) -> Dims:
    """elements start:end:step of one dimension"""
    dim, node = site.axis(1), site.node
    size = size_of(site.x[dim])
    index = np.arange(size)[slice(node.arg(2), node.arg(3), node.arg(4, 1))]
    return site.take(dim, index)


@moves("aten.narrow")
def narrow(site: Site) -> Dims:
    """elements start:start+length of one dimension"""
    start, length = site.node.args[2], site.node.args[3]
    return site.take(site.axis(1), np.arange(start, start + length))


@moves("aten.flip")
def flip(site: Site) -> Dims:
    """dimensions in reverse order"""
    dims = list(site.x)
    for d in site.node.args[1]:
        dims[d] = site.algebra.take(dims[d], np.arange(size_of(dims[d]))[::-1])
    return tuple(dims)


@moves("aten.roll")
def roll(site: Site) -> Dims:
    """elements shifted around one or more dimensions"""
    shifts, over = site.node.args[1], site.node.arg(2, ())
    dims = list(site.x)
    if not over:
        return _refused(site, "rolled across all dimensions")
    for shift, d in zip(shifts, over, strict=True):
        dims[d] = site.algebra.take(dims[d], np.roll(np.arange(size_of(dims[d])), shift))
    return tuple(dims)


@moves("aten.select")
def select(site: Site) -> Dims:
    """one position of one dimension: that position stays"""
    dim = site.axis(1)
    x = site.x
    index = site.node.args[2] % size_of(x[dim])
    if site.read:
        site.algebra.freeze_at(x[dim], index, f"position {index} is read by itself")
    return x[:dim] + x[dim + 1 :]


@moves("aten.unbind")
def unbind(site: Site) -> list[Dims]:
    """every position of one dimension by itself: the dimension stays"""
    dim = site.axis(1)
    site.algebra.freeze(site.x[dim], "unbound: every position is read by itself")
    return [site.x[:dim] + site.x[dim + 1 :] for _ in site.node.outputs]


@moves("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes",
       "aten.chunk", "aten.tensor_split")  # fmt: skip
def split(site: Site) -> list[Dims]:
    """one dimension cut into runs, one an output"""
    dim = site.axis(2)
    out, start = [], 0
    for i in range(len(site.node.outputs)):
        size = site.shape(i)[dim]
        out.append(site.take(dim, np.arange(start, start + size)))
        start += size
    if len({size_of(dims[dim]) for dims in out}) == 1:
        site.algebra.tie([dims[dim] for dims in out])
    return out


@moves("aten.cat", "aten.concat")
def cat(site: Site) -> Dims:
    """a run from each input, one after another; the other dimensions are equal"""
    tensors = [v for v in site.node.args[0] if v.shape != (0,)]
    if not tensors:
        return (opaque(0),)
    dims = [site.dims(v) for v in tensors]
    dim = site.node.arg(1, 0) % len(dims[0])
    return _joined(site, dims, dim)


@moves("aten.stack")
def stack(site: Site) -> Dims:
    """the inputs side by side along a new dimension"""
    dims = [site.dims(v) for v in site.node.args[0]]
    dim = site.node.arg(1, 0) % (len(dims[0]) + 1)
    rest = _equal(site, dims)
    return (*rest[:dim], site.made(len(dims)), *rest[dim:])


@moves("aten.constant_pad_nd")
def constant_pad_nd(site: Site) -> Dims:
    """new constant elements before and after; negative widths cut"""
    pad = site.node.args[1]
    dims = list(site.x)
    for k in range(len(pad) // 2):
        d = len(dims) - 1 - k
        before, after = pad[2 * k], pad[2 * k + 1]
        label = "fill" if site.node.arg(2, 0) else "pad"
        dims[d] = _padded(site, dims[d], (before, after), label)
    return tuple(dims)


def _padded(site: Site, dim: Dim, widths: tuple[int, int], label: str) -> Dim:
    size = size_of(dim)
    before, after = widths
    if before < 0 or after < 0:
        dim = site.algebra.take(dim, np.arange(size)[max(-before, 0) : size - max(-after, 0)])
    ends = [max(before, 0), max(after, 0)]
    if ends == [0, 0]:
        return dim
    if all(leaf.ids is None for leaf in dim):
        return site.algebra.concat([opaque(ends[0]), dim, opaque(ends[1])])
    # a padded element is the same constant wherever it stands: any number of them may go
    first, last = (site.algebra.run(n, label) for n in ends)
    return site.algebra.concat([x for x in (first, dim, last) if x])


@moves("aten.view_as_complex")
def view_as_complex(site: Site) -> Dims:
    """... 2 -> ..."""
    site.algebra.freeze(site.x[-1], "the real and the imaginary part of a number stay together")
    return site.x[:-1]


@moves("aten.view_as_real")
def view_as_real(site: Site) -> Dims:
    """... -> ... 2"""
    return (*site.x, site.made(2))


@moves("aten.diagonal", "aten.diagonal_copy")
def diagonal(site: Site) -> Dims:
    """* c c -> * c: rows and columns are the same; a diagonal beside the middle is read by position"""
    x, (a, b) = site.x, (site.axis(2, 0), site.axis(3, 1))
    rest = tuple(d for i, d in enumerate(x) if i not in (a, b))
    if site.node.arg(1, 0) == 0 and size_of(x[a]) == size_of(x[b]):
        site.algebra.equate(x[a], x[b])
        return (*rest, x[a])
    for d in (x[a], x[b]):
        site.algebra.freeze(d, "a diagonal of it is read by position")
    return (*rest, site.made(site.shape()[-1]))


@moves("aten.diag_embed")
def diag_embed(site: Site) -> Dims:
    """* c -> * c c: rows and columns are the same; beside the middle they are read by position"""
    *rest, c = site.x
    a, b = (site.node.arg(k, default) % (len(rest) + 2) for k, default in ((2, -2), (3, -1)))
    if site.node.arg(1, 0) != 0:
        site.algebra.freeze(c, "laid beside the diagonal, by position")
        c = site.made(site.shape()[a])
    for d in sorted((a, b)):
        rest.insert(d, c)
    return tuple(rest)


@moves("aten.rot90")
def rot90(site: Site) -> Dims:
    """two dimensions turned: they change places, or order, or both"""
    turns, dims = site.node.arg(1, 1) % 4, list(site.x)
    a, b = (d % len(dims) for d in site.node.arg(2, (0, 1)))
    turned = {d: site.algebra.take(dims[d], np.arange(size_of(dims[d]))[::-1]) for d in (a, b)}
    if turns == 2:
        dims[a], dims[b] = turned[a], turned[b]
    elif turns:
        dims[a], dims[b] = (turned[b], dims[a]) if turns == 1 else (dims[b], turned[a])
    return tuple(dims)


@moves("aten.unfold")
def unfold(site: Site) -> Dims:
    """windows along one dimension: that dimension is read by position, whole windows where they are
    side by side"""
    dim = site.axis(1)
    size, window = site.shape()[dim], site.shape()[-1]
    if site.node.args[3] == window and size_of(site.x[dim]) == size * window:
        outer, inner = site.algebra.split(site.x[dim], [size, window])
        site.algebra.freeze(inner, f"{site.node.op} reads it by position")
        return (*site.x[:dim], outer, *site.x[dim + 1 :], inner)
    return (*site.by_position(dim, site.made(size)), site.made(window))


@moves("aten.pixel_shuffle")
def pixel_shuffle(site: Site) -> Dims:
    """n (c r s) h w -> n c (h r) (w s)"""
    *lead, c, h, w = site.x
    r = site.node.args[1]
    a, b, d = site.algebra.split(c, [size_of(c) // (r * r), r, r])
    _stays(site, b + d)
    return (*lead, a, h + b, w + d)


@moves("aten.pixel_unshuffle")
def pixel_unshuffle(site: Site) -> Dims:
    """n c (h r) (w s) -> n (c r s) h w"""
    *lead, c, h, w = site.x
    r = site.node.args[1]
    a, b = site.algebra.split(h, [size_of(h) // r, r])
    d, e = site.algebra.split(w, [size_of(w) // r, r])
    _stays(site, b + e)
    return (*lead, c + b + e, a, d)


def _stays(site: Site, pixels: Dim) -> None:
    site.algebra.freeze(pixels, "the pixels of one block stay together")


@moves("aten.im2col")
def im2col(site: Site) -> Dims:
    """n c h w -> n (c window) positions"""
    *lead, c, h, w = site.x
    for d in (h, w):
        site.algebra.freeze(d, f"{site.node.op} reads it by position")
    window, positions = prod(site.node.args[1]), site.shape()[-1]
    return (*lead, c + site.made(window), site.made(positions))


@moves("aten.col2im")
def col2im(site: Site) -> Dims:
    """n (c window) positions -> n c h w: windows of a channel are added where they overlap"""
    *lead, rows, positions = site.x
    window = prod(site.node.args[2])
    c, places = site.algebra.split(rows, [size_of(rows) // window, window])
    for d in (places, positions):
        site.algebra.freeze(d, f"{site.node.op} reads it by position")
    return (*lead, c, *(site.made(n) for n in site.shape()[-2:]))


@moves("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(site: Site) -> Dims:
    """n (g c) * -> n (c g) *"""
    n, c, *space = site.x
    g = site.node.args[1]
    a, b = site.algebra.split(c, [g, size_of(c) // g])
    return (n, b + a, *space)


@moves("aten.glu")
def glu(site: Site) -> Dims:
    """(u c) -> c: first half times sigmoid of the second half"""
    dim = site.node.arg(1, -1) % len(site.x)
    half = size_of(site.x[dim]) // 2
    first = site.take(dim, np.arange(half))
    second = site.take(dim, np.arange(half, 2 * half))
    return _equal(site, [first, second])


@moves(
    "aten.zeros", "aten.ones", "aten.full", "aten.empty", "aten.rand", "aten.randn",
    "aten.new_zeros", "aten.new_ones", "aten.new_full", "aten.new_empty", "aten.scalar_tensor",
    family="factory",
)  # fmt: skip
def constant(site: Site) -> Dims:
    """-> the same constant everywhere: as many as are needed"""
    return tuple(site.algebra.fresh(n, "constant") for n in site.shape())


@moves("aten.set")
def emptied(site: Site) -> Dims:
    """-> no elements: set_() takes the tensor off its memory, which others may share"""
    return tuple(site.made(n) for n in site.shape())


@moves("aten.arange", "aten.range", family="factory")
def positions(site: Site) -> Dims:
    """-> numbers that differ by position: a program can hold those that stay, where they are whole numbers"""
    return tuple(
        site.algebra.fresh(n, POSITION) if _whole(site.node) else site.made(n) for n in site.shape()
    )


def _whole(node: Node) -> bool:
    """Whether a run of numbers starts and steps by whole ones: others are rounded to a precision, which the oracle changes."""
    return all(type(x) is int for x in node.args)


@moves("aten.linspace", "aten.logspace", "aten.tril_indices", "aten.triu_indices", "aten.randint", "aten.randperm",
       "aten.hann_window", "aten.hamming_window", "aten.blackman_window", "aten.bartlett_window",
       "aten.kaiser_window", "aten.fft_fftfreq", "aten.fft_rfftfreq", family="factory")  # fmt: skip
def places(site: Site) -> Dims:
    """-> elements that differ by position"""
    return tuple(site.made(n) for n in site.shape())


@moves("aten.eye", family="factory")
def eye(site: Site) -> Dims:
    """-> c c: one where row and column are the same, so that rows and columns go together"""
    rows, columns = site.shape()
    if rows != columns:
        return tuple(site.made(n) for n in site.shape())
    both = site.algebra.fresh(rows, "eye")
    return (both, both)


@moves("aten.tril", "aten.triu")
def triangle(site: Site) -> Dims:
    """the last two dimensions are read by position"""
    x = site.x
    for d in x[-2:]:
        site.algebra.freeze(d, "masked by position")
    return x


@moves("aten._pack_padded_sequence")
def pack_padded_sequence(site: Site) -> list[Dims]:
    """n t * -> (steps of all sequences) *: batch and time stay, the rest passes through"""
    for d in (*site.x[:2], *site.dims(site.node.args[1])):
        site.algebra.freeze(d, "packed: read by position")
    return [(site.made(site.shape()[0]), *site.x[2:]), (site.made(site.shape(1)[0]),)]


def _equal(site: Site, dims: Sequence[Dims]) -> Dims:
    for other in dims[1:]:
        for a, b in zip(dims[0], other, strict=True):
            site.algebra.equate(a, b)
    return dims[0]


def _joined(site: Site, dims: Sequence[Dims], dim: int) -> Dims:
    rest = _equal(site, [(*d[:dim], (), *d[dim + 1 :]) for d in dims])
    return (*rest[:dim], site.algebra.concat([d[dim] for d in dims]), *rest[dim + 1 :])


def _refused(site: Site, why: str) -> Dims:
    for d in site.x:
        site.algebra.freeze(d, why)
    return tuple(site.made(n) for n in site.shape())
