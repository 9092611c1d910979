"""What is masked together: a weight seen as units, each with one score and one fate.

A granularity maps a weight [out, in, *kernel] to a table of scores and back: `units` sums what belongs
together, `spread` gives each weight the fate of its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from surgeon.errors import BadInput


@dataclass(frozen=True)
class Granularity:
    """`over`: dimensions that one unit spans, of a weight of this rank. None: the weight has no such units."""

    name: str
    says: str
    over: Callable[[int], Sequence[int] | None]


def _kernel_of(rank: int) -> list[int]:
    return list(range(2, rank))


KINDS = {
    g.name: g
    for g in (
        Granularity("weight", "each weight by itself", lambda rank: []),
        Granularity("row", "a row of each kernel; of a matrix, all inputs of one output",
                    lambda rank: [1] if rank == 2 else [rank - 1] if rank > 3 else None),
        Granularity("column", "a column of each kernel; of a matrix, all outputs of one input",
                    lambda rank: [0] if rank == 2 else [rank - 2] if rank > 3 else None),
        Granularity("kernel", "the kernel between one input and one output channel",
                    lambda rank: _kernel_of(rank) if rank > 2 else None),
        Granularity("shared-kernel", "all kernels of one input channel",
                    lambda rank: [0, *_kernel_of(rank)]),
        Granularity("stripe", "one spatial position of a filter, all its input channels",
                    lambda rank: [1] if rank > 2 else None),
        Granularity("filter", "all weights of one output channel",
                    lambda rank: [1, *_kernel_of(rank)]),
    )
}  # fmt: skip


def units(weight: Tensor, scores: Tensor, name: str) -> Tensor | None:
    """Mean score of each unit, with an extent of one where units span; None where there are no such units.

    name: one of KINDS, or 'NxM' for blocks of N outputs by M inputs. Raises BadInput for another.
    """
    block = block_of(name)
    if block is not None:
        return _blocks(scores, block)
    refuse_unknown(name)
    over = KINDS[name].over(weight.dim())
    if over is None:
        return None
    return scores.mean(list(over), keepdim=True) if over else scores


def refuse_unknown(name: str) -> None:
    """BadInput for a name that is neither one of KINDS nor a block."""
    if block_of(name) is None and name not in KINDS:
        raise BadInput(
            f"no granularity '{name}'",
            f"there are {', '.join(KINDS)}, blocks as 4x4, and N:M as 2:4",
        )


def spread(weight: Tensor, fate: Tensor, name: str) -> Tensor:
    """Every weight's share of its unit's fate: a tensor of the weight's shape."""
    block = block_of(name)
    if block is None:
        return fate.expand(weight.shape)
    wide = fate.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    wide = wide[: weight.shape[0], : weight.shape[1]]
    return wide.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2)).expand(weight.shape)


def block_of(name: str) -> tuple[int, int] | None:
    """'4x2' -> (4, 2)."""
    return _pair(name, "x")


def pattern_of(name: str) -> tuple[int, int] | None:
    """'2:4' -> (2, 4): two of every four inputs stay."""
    found = _pair(name, ":")
    if found is not None and found[0] >= found[1]:
        raise BadInput(f"'{name}' masks nothing", "write 2:4: two of every four stay")
    return found


def _pair(name: str, sign: str) -> tuple[int, int] | None:
    left, found, right = name.partition(sign)
    if not (found and left.isdecimal() and right.isdecimal()):
        return None
    if not (int(left) and int(right)):
        raise BadInput(f"'{name}' has a zero in it", "write 4x4 for blocks, 2:4 for N:M")
    return int(left), int(right)


def _blocks(scores: Tensor, block: tuple[int, int]) -> Tensor:
    """Mean score of each block of a matrix; blocks at the edges are smaller."""
    flat = scores.flatten(2).mean(2) if scores.dim() > 2 else scores
    n, m = flat.shape
    pad = (0, -m % block[1], 0, -n % block[0])
    size = (ceil(n / block[0]), block[0], ceil(m / block[1]), block[1])
    total = F.pad(flat, pad).reshape(size).sum((1, 3))
    count = F.pad(torch.ones_like(flat), pad).reshape(size).sum((1, 3))
    return total / count


def pattern_mask(weight: Tensor, scores: Tensor, pattern: tuple[int, int]) -> Tensor | None:
    """N:M: of every M inputs that follow each other, the N with the highest scores stay. None where the
    number of inputs is no multiple of M."""
    n, m = pattern
    count = prod(weight.shape[1:])
    if count % m or weight.shape[1] % m:
        return None
    by_input = scores.movedim(1, -1)  # inputs of one spatial position follow each other
    groups = by_input.reshape(-1, m)
    stays = torch.zeros_like(groups).scatter_(1, groups.topk(n, dim=1).indices, 1)
    return stays.reshape(by_input.shape).movedim(-1, 1)
