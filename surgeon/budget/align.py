"""Widths that kernels like: whole blocks of channels, and below one block what still costs less than it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd, lcm, prod
from typing import NamedTuple

from surgeon.grouping import Group, Member

_NEAR = 0.05  # of a group's channels: rounding further than this is not what was asked
_LEAST = 4
KINDS = ("conv", "pointwise", "depthwise", "linear")


class Grid(NamedTuple):
    """Counts that may be kept: multiples of `block`, and of `fine` where that is less than one block."""

    block: int = 1
    fine: int = 1

    def down(self, kept: int) -> int:
        """The largest such count that is `kept` at most; 0 where there is none."""
        return kept // self.block * self.block or kept // self.fine * self.fine

    def up(self, kept: int) -> int:
        """The next one above `kept`."""
        if kept < self.block:
            return min(kept // self.fine * self.fine + self.fine, self.block)
        return kept // self.block * self.block + self.block


class Near(NamedTuple):
    """Any count may be kept, but a friendly one is taken where it is near: whole blocks, half ones, multiples of 4."""

    block: int

    def kept(self, size: int, ratio: float) -> int:
        """Of `size` at this ratio.

        >>> Near(16).kept(64, 0.5), Near(16).kept(64, 0.3), Near(16).kept(96, 0.1), Near(16).kept(24, 0.1), Near(16).kept(10, 0.5)
        (32, 48, 88, 20, 5)
        """
        exact = keep_count(size, ratio, 1)
        step = self.block
        while step > _LEAST:
            near = keep_count(size, ratio, step)
            if near % step == 0 and abs(near - exact) <= _NEAR * size:
                return near
            step //= 2
        # above one block, kernels fall back where a count does not divide by 4
        return keep_count(size, ratio, _LEAST) if exact > self.block else exact


@dataclass(frozen=True)
class Widths:
    """The grid of each kind of layer, in channels that it makes.

    `sizes`: by kind, how many channels kernels seem to work on when there are so many, told by time: 12 may cost what
    16 do. Where nothing is told of a width, that is whole blocks, and below one block the width itself.
    """

    grids: Mapping[str, Grid]
    sizes: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @staticmethod
    def multiples(of: int) -> Widths:
        """Every layer's channels are a multiple of the same number."""
        return Widths(dict.fromkeys(KINDS, Grid(of, of)))

    def worked(self, kind: str, width: int) -> float:
        """Channels that kernels work on."""
        told = self.sizes.get(kind, {})
        if wider := [w for w in told if w >= width]:
            return told[min(wider)]
        block, fine = self.grids[kind]
        step = fine if width < block else block
        return -(-width // step) * step

    @property
    def block(self) -> int:
        """Of convolutions, which is where blocks are."""
        return self.grids["conv"].block

    def __str__(self) -> str:
        return "auto"


def block_of_this_cpu() -> int:
    """Channels per block of ONNX Runtime's convolutions here: 16 with AVX-512, 8 with AVX2, else 4."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        flags = ""
    if "avx512f" in flags.split():
        return 16
    return 8 if "avx2" in flags.split() else 4


def kind_of(shape: Sequence[int]) -> str | None:
    """Of the layer whose weight has this shape; None where it is no layer's weight."""
    if len(shape) == 2:
        return "linear"
    if len(shape) < 2:
        return None
    if shape[1] == 1 and shape[0] > 1:
        return "depthwise"
    return "pointwise" if prod(shape[2:]) == 1 else "conv"


def grid_of(group: Group, widths: Widths, shapes: Mapping[str, Sequence[int]]) -> Grid:
    """The grid of a group's channels: that of all layers that make them. shapes: of the state, by name.

    A channel may make several elements of a layer (a head, a group of convolution groups): then fewer will do.
    """
    makers = [m for m in group.members if m.role == "makes"] or list(group.members)[:1]
    found = [
        _of_channels(m, widths.grids[kind_of(shapes[m.state]) or "conv"], group) for m in makers
    ]
    return Grid(lcm(*(g.block for g in found)), lcm(*(g.fine for g in found)))


def together(grids: Iterable[tuple[Grid, int]]) -> Grid:
    """Of groups that lose the same share; pairs of a group's grid, and its size in sizes of the smallest."""
    blocks, fines = [], []
    for grid, per in grids:
        blocks.append(grid.block // gcd(grid.block, per))
        fines.append(grid.fine // gcd(grid.fine, per))
    return Grid(lcm(*blocks), lcm(*fines))


def keep_count(size: int, ratio: float, step: int, fine: int | None = None) -> int:
    """Channels kept of `size` at this ratio: at least one, nearest multiple of `step` where one fits, and of
    `fine` below one step.

    >>> keep_count(64, 0.5, 1), keep_count(12, 0.5, 8), keep_count(30, 0.5, 8), keep_count(5, 0.99, 1)
    (32, 8, 16, 1)
    >>> keep_count(16, 0.5, 16, 4), keep_count(64, 0.99, 16, 4)
    (8, 4)
    """
    if ratio == 0:
        return size
    target = size * (1 - ratio)
    if fine is not None and fine < step and target < step and size >= fine:
        step = fine
    if step <= 1 or size < step:
        return min(max(size - int(size * ratio + 0.5), 1), size)
    steps = min(max(int(target / step + 0.5), 1), size // step)
    return steps * step


def elements(group: Group) -> int:
    """How many elements of a layer's width one channel makes, at the most: a head makes many."""
    return max((_each(m, group) for m in group.members if m.role == "makes"), default=1)


def _each(member: Member, group: Group) -> int:
    return max(len(member.at) // max(group.size, 1), 1)


def _of_channels(member: Member, grid: Grid, group: Group) -> Grid:
    each = _each(member, group)
    return Grid(grid.block // gcd(grid.block, each), grid.fine // gcd(grid.fine, each))
