"""Blocks that move channels: slices, splits, shuffles, reshapes, paddings, gathers, repeats."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import WIDEST, Do, Form, Pick, block, divisors


@block("any")
def slice_(pick: Pick, x: Form) -> nn.Module | None:
    """A run of channels, or every second or third of them; to a position, or to the end."""
    if x.c < 3:
        return None
    start, step, how = pick(range(x.c // 2)), pick((1, 1, 2, 3)), pick(("slice", "narrow", "end"))
    stop = start + 2 + pick(range(x.c - start - 1))
    if how == "narrow":
        return Do(lambda t: t.narrow(x.dim, start, stop - start))
    at = x.at(slice(start, None if how == "end" else stop, step))
    return Do(lambda t: t[at])


@block("any")
def halves(pick: Pick, x: Form) -> nn.Module | None:
    """chunk, split or tensor_split into equal runs."""
    parts = [k for k in divisors(x.c) if k > 1]
    if not parts:
        return None
    n, how, axis = pick(parts[:3]), pick(("chunk", "split", "tensor_split")), x.axis(pick)
    if how == "chunk":
        return Do(lambda t: t.chunk(n, axis))
    if how == "split":
        return Do(lambda t: t.split(t.shape[axis] // n, axis))
    return Do(lambda t: t.tensor_split(n, axis))


@block("any")
def runs(pick: Pick, x: Form) -> nn.Module | None:
    """split into runs of sizes that are written down."""
    if x.c < 3:
        return None
    first = 1 + pick(range(x.c - 2))
    second = 1 + pick(range(x.c - first - 1)) if x.c - first > 1 else 0
    sizes = [n for n in (first, second, x.c - first - second) if n]
    return Do(lambda t: t.split(sizes, x.dim))


@block("any")
def uneven(pick: Pick, x: Form) -> nn.Module | None:
    """split by a size that does not divide the width: the last run is narrower."""
    if x.c < 3:
        return None
    size = 1 + pick(range(x.c - 1))
    return Do(lambda t: t.split(size, x.dim))


@block("any")
def flip(pick: Pick, x: Form) -> nn.Module:
    dims = pick(((x.dim,), (x.dim,), (1, x.rank - 1)))
    return Do(lambda t: t.flip(dims))


@block("any")
def roll(pick: Pick, x: Form) -> nn.Module:
    by = pick((1, 2, -1, 5))
    return Do(lambda t: t.roll(by, x.dim))


@block("any")
def gather(pick: Pick, x: Form) -> nn.Module | None:
    """Channels by a constant list of positions: a permutation, or any choice of them."""
    if x.c < 2:
        return None
    chance, how = random.Random(pick(range(99))), pick(("permute", "choose"))
    at = list(range(x.c))
    chance.shuffle(at)
    if how == "choose":
        at = [chance.randrange(x.c) for _ in range(2 + chance.randrange(x.c))]
    spelt = pick(("buffer", "list", "index_select"))
    if spelt == "list":
        return Do(lambda t: t[x.at(at)])
    if spelt == "buffer":
        return Do(lambda t, index: t[x.at(index)], torch.tensor(at))
    return Do(lambda t, index: t.index_select(x.dim, index), torch.tensor(at))


@block("any")
def pad_channels(pick: Pick, x: Form) -> nn.Module:
    """Constant channels before and after."""
    before, after, value = pick((0, 0, 1, 3)), pick((1, 2, 4, -1)), pick((0.0, 0.0, 1.5))
    pad = [0] * (2 * (x.rank - 1 - x.dim)) + [before, after]
    return Do(lambda t: F.pad(t, pad, value=value))


@block("map")
def pad_space(pick: Pick, x: Form) -> nn.Module:
    mode = pick(("constant", "reflect", "replicate", "circular"))
    pad = [1] * (2 * len(x.space))
    return Do(lambda t: F.pad(t, pad, mode=mode))


class Shuffle(nn.Module):
    """(a b) -> (b a) along one dimension; the width is read off the input, or is an attribute."""

    def __init__(self, groups: int, dim: int, width: int | None) -> None:
        super().__init__()
        self.groups, self.dim, self.width = groups, dim, width

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        width = shape[self.dim] if self.width is None else self.width
        before, after = shape[: self.dim], shape[self.dim + 1 :]
        x = x.reshape(*before, self.groups, width // self.groups, *after)
        return x.transpose(self.dim, self.dim + 1).reshape(*before, width, *after)


@block("any")
def shuffle(pick: Pick, x: Form) -> nn.Module:
    groups, how = pick(divisors(x.c)), pick(("shape", "attribute", "layer"))
    if how == "layer" and len(x.space) == 2 and x.kind == "map":
        return nn.ChannelShuffle(groups)
    return Shuffle(groups, x.dim, x.c if how == "attribute" else None)


@block("any")
def permuted_factors(pick: Pick, x: Form) -> nn.Module:
    """The channels as a product of three, in another order."""
    a = pick(divisors(x.c))
    b = pick(divisors(x.c // a))
    order = pick(((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0)))
    literal = pick((True, False))
    d, sizes = x.dim, (a, b, x.c // a // b)

    def forward(t: Tensor) -> Tensor:
        shape = t.shape
        last = sizes[2] if literal else -1
        t = t.reshape(*shape[:d], a, b, last, *shape[d + 1 :])
        dims = (*range(d), *(d + k for k in order), *range(d + 3, t.dim()))
        return t.permute(dims).reshape(*shape[:d], x.c if literal else -1, *shape[d + 1 :])

    return Do(forward)


@block("any")
def unflattened(pick: Pick, x: Form) -> nn.Module:
    """Unflatten, something along a factor, flatten."""
    a, what = pick(divisors(x.c)), pick(("relu", "flip outer", "flip inner", "scale"))
    d, both = x.dim, (a, x.c // a)

    def forward(t: Tensor) -> Tensor:
        t = t.unflatten(d, both)
        if what == "flip outer":
            t = t.flip(d)
        if what == "flip inner":
            t = t.flip(d + 1)
        return (t.relu() if what == "relu" else t * 0.5).flatten(d, d + 1)

    return Do(forward)


@block("any")
def repeat(pick: Pick, x: Form) -> nn.Module | None:
    if x.c * 2 > WIDEST:
        return None
    times, how = pick((2, 3)), pick(("repeat", "interleave", "expand", "tile"))
    d = x.dim
    sizes = [times if k == d else 1 for k in range(x.rank)]
    if how == "interleave":
        return Do(lambda t: t.repeat_interleave(times, d))
    if how == "expand":
        wide = [-1] * d + [times] + [-1] * (x.rank - d)
        return Do(lambda t: t.unsqueeze(d).expand(wide).flatten(d, d + 1))
    return Do((lambda t: t.repeat(sizes)) if how == "repeat" else (lambda t: t.tile(sizes)))


@block("any")
def glu(pick: Pick, x: Form) -> nn.Module | None:
    return nn.GLU(x.axis(pick)) if x.c % 2 == 0 else None


@block("any")
def gated_halves(pick: Pick, x: Form) -> nn.Module | None:
    """Two halves multiplied."""
    if x.c % 2:
        return None

    def forward(t: Tensor) -> Tensor:
        a, b = t.chunk(2, x.dim)
        return torch.tanh(a) * b

    return Do(forward)


@block("any", plain=False)
def maxout(pick: Pick, x: Form) -> nn.Module | None:
    """The largest (or the mean) of each group of channels."""
    size = pick(divisors(x.c))
    if size == 1:
        return None
    d, inner, how = x.dim, pick((True, False)), pick(("amax", "mean", "sum"))
    both = (-1, size) if inner else (size, -1)

    def forward(t: Tensor) -> Tensor:
        t = t.unflatten(d, both)
        return getattr(t, how)(d + 1 if inner else d)

    return Do(forward)


@block("any")
def side_by_side(pick: Pick, x: Form) -> nn.Module | None:
    """stack with itself, then flatten: copies inside or outside."""
    if x.c * 2 > WIDEST:
        return None
    at = pick((x.dim, x.dim + 1))
    return Do(lambda t: torch.stack([t, t.relu()], at).flatten(x.dim, x.dim + 1))


@block("any")
def twice(pick: Pick, x: Form) -> nn.Module | None:
    """Concatenated with itself."""
    axis = x.axis(pick)
    return Do(lambda t: torch.cat([t, t], axis)) if 2 * x.c <= WIDEST else None


@block("any")
def rejoined(pick: Pick, x: Form) -> nn.Module | None:
    """Split, one part changed, and joined again in the same or another order."""
    if x.c < 2:
        return None
    at, swap = 1 + pick(range(x.c - 1)), pick((False, True))

    def forward(t: Tensor) -> Tensor:
        a, b = t[x.at(slice(None, at))], t[x.at(slice(at, None))]
        parts = [b, a.relu()] if swap else [a * 2, b]
        return torch.cat(parts, x.dim)

    return Do(forward)


@block("any")
def written_slice(pick: Pick, x: Form) -> nn.Module | None:
    """A write into a part of the channels, in place."""
    if x.c < 3:
        return None
    stop, how = 1 + pick(range(x.c - 1)), pick(("multiply", "fill", "relu"))

    def forward(t: Tensor) -> Tensor:
        t = t.clone()
        part = t[x.at(slice(None, stop))]
        if how == "fill":
            t[x.at(slice(None, stop))] = 0.25
        elif how == "multiply":
            part *= 2
        else:
            part.relu_()
        return t

    return Do(forward)


@block("any")
def shifted_runs(pick: Pick, x: Form) -> nn.Module | None:
    """A few channels moved along space (temporal shift)."""
    if x.c < 4 or not x.space:
        return None
    n, over = pick((1, 2)), 1 if x.kind == "tokens" else 2

    def forward(t: Tensor) -> Tensor:
        a, b = t[x.at(slice(None, n))], t[x.at(slice(n, 2 * n))]
        return torch.cat([a.roll(1, over), b.roll(-1, over), t[x.at(slice(2 * n, None))]], x.dim)

    return Do(forward)


@block("any")
def one_channel(pick: Pick, x: Form) -> nn.Module | None:
    """A single channel as a gate for all."""
    if x.c < 3:
        return None
    at, how = pick(range(x.c)), pick(("select", "slice"))
    if how == "slice":
        return Do(lambda t: t * t[x.at(slice(at, at + 1))].sigmoid())
    return Do(lambda t: t * t.select(x.dim, at).unsqueeze(x.dim).sigmoid())


@block("any")
def unbound(pick: Pick, x: Form) -> nn.Module | None:
    """The channels one by one, restacked."""
    return Do(lambda t: torch.stack(t.unbind(x.dim)[::-1], x.dim)) if 1 < x.c < 7 else None


@block("map")
def pixel_shuffle(pick: Pick, x: Form) -> nn.Module | None:
    ok = len(x.space) == 2 and x.c % 4 == 0
    return nn.PixelShuffle(2) if ok else None


@block("map")
def pixel_unshuffle(pick: Pick, x: Form) -> nn.Module | None:
    ok = len(x.space) == 2 and x.c * 4 <= WIDEST and not any(n % 2 for n in x.space)
    return nn.PixelUnshuffle(2) if ok else None


@block("map")
def space_to_depth(pick: Pick, x: Form) -> nn.Module | None:
    """Four strided pictures, concatenated (Focus, patch merging)."""
    if len(x.space) != 2 or x.c * 4 > WIDEST or any(n % 2 for n in x.space):
        return None

    def forward(t: Tensor) -> Tensor:
        corners = [t[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return torch.cat(corners, 1)

    return Do(forward)


@block("map")
def unfolded(pick: Pick, x: Form) -> nn.Module | None:
    """Each window's pixels as channels, then folded by a mean over the window."""
    if len(x.space) != 2 or x.c > 16:
        return None
    h, w = x.space

    def forward(t: Tensor) -> Tensor:
        return F.unfold(t, 3, padding=1).view(t.shape[0], -1, 9, h, w).mean(2)

    return Do(forward)


@block("map")
def pool(pick: Pick, x: Form) -> nn.Module | None:
    rank = len(x.space)
    if min(x.space) < 2:
        return None
    how = pick(("max", "avg", "adaptive avg", "adaptive max", "global"))
    if how == "global":
        return Do(lambda t: t.mean(tuple(range(2, t.dim())), keepdim=True))
    max_, avg = {
        1: (nn.MaxPool1d, nn.AvgPool1d),
        2: (nn.MaxPool2d, nn.AvgPool2d),
        3: (nn.MaxPool3d, nn.AvgPool3d),
    }[rank]
    if how in ("max", "avg"):
        return {"max": max_, "avg": avg}[how](2, stride=pick((1, 2)))
    adaptive = {
        "adaptive avg": {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d},
        "adaptive max": {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d},
    }
    return adaptive[how][rank](pick((1, 2)))


@block("map")
def upsample(pick: Pick, x: Form) -> nn.Module:
    smooth = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(x.space)]
    mode = pick(("nearest", smooth))
    if pick(("factor", "size")) == "size":
        return Do(lambda t: F.interpolate(t, size=[n + 2 for n in t.shape[2:]], mode=mode))
    return nn.Upsample(scale_factor=2, mode=mode)


@block("map")
def turned(pick: Pick, x: Form) -> nn.Module | None:
    """Space transposed or flattened and seen again."""
    if len(x.space) < 2:
        return Do(lambda t: t.unsqueeze(-1).squeeze(-1))
    how = pick(("transpose", "flatten"))
    if how == "transpose":
        return Do(lambda t: t.transpose(2, 3).contiguous())
    return Do(lambda t: t.flatten(2).sigmoid().unflatten(2, t.shape[2:]))
