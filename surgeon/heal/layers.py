"""Layers as a run meets them: ops that are linear in their data and read a weight of the state.

A run is watched under a dispatch mode, so that modules and programs are the same: an op counts where its
weight operand is a state tensor, or its transpose. Rows of data and of outputs are looked at in one
layout: `data` [rows, groups, terms], `out` [rows, outputs].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CONV = "aten.convolution.default"
_ADDMM = "aten.addmm.default"
_MM = "aten.mm.default"


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a linear op: y = W x + b.

    `weight` and `bias` are operands that share memory with the state tensors of these names; `x` is the
    data. out_dim, in_dim: which dimension of the state's weight makes outputs, and which takes inputs.
    """

    op: str
    name: str
    weight: Tensor
    bias: Tensor | None
    bias_name: str | None
    x: Tensor
    out_dim: int
    in_dim: int
    conv: tuple[Any, ...] = ()  # stride, padding, dilation, groups

    @property
    def groups(self) -> int:
        """Parts that share no inputs."""
        return self.conv[3] if self.conv else 1

    @property
    def matrix(self) -> Tensor:
        """The weight as [groups, outputs of a group, terms]."""
        if not self.conv:
            return self.weight.t()[None]
        return self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, -1)

    def put(self, matrix: Tensor) -> None:
        """Write a matrix of this layout into the state."""
        new = matrix.to(self.weight.dtype)
        self.weight.copy_(new[0].t() if not self.conv else new.reshape(self.weight.shape))

    def data(self, at: Tensor) -> Tensor:
        """What the outputs at positions `at` are made of: [len(at), groups, terms].

        Positions count examples first: of a convolution [n, *space of the output], of a product its rows.
        """
        if not self.conv:
            return self.x[at][:, None]
        stride, padding, dilation, groups = self.conv
        x, space = self.x, len(stride)
        kernel = self.weight.shape[2:]
        sides = [p for d in reversed(range(space)) for p in (padding[d], padding[d])]
        x = torch.nn.functional.pad(x, sides) if any(sides) else x
        sizes = [
            (x.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
            for d in range(space)
        ]
        n, *corner = _unravel(at, sizes)
        index: list[Tensor] = [n.view(-1, *[1] * space)]
        for d in range(space):
            steps = torch.arange(kernel[d]) * dilation[d]
            shape = [1] * space
            shape[d] = -1
            index.append((corner[d] * stride[d]).view(-1, *[1] * space) + steps.view(shape))
        rows = x.movedim(1, -1)[tuple(index)]  # rows, *kernel, channels
        rows = rows.movedim(-1, 1).flatten(2)  # rows, channels, kernel
        return rows.reshape(len(at), groups, -1)


def out_rows(value: Tensor, at: Tensor, conv: bool) -> Tensor:
    """[len(at), channels] of a result at positions: channels are dim 1 of a convolution's, the last else."""
    if not conv:
        return value.reshape(-1, value.shape[-1])[at]
    n, *corner = _unravel(at, list(value.shape[2:]))
    return value.movedim(1, -1)[(n, *corner)]


def _unravel(at: Tensor, sizes: list[int]) -> list[Tensor]:
    out = []
    for size in reversed(sizes):
        out.append(at % size)
        at = at // size
    return [at, *reversed(out)]


def layer_of(func: Any, args: tuple[Any, ...], state: Mapping[int, str]) -> Layer | None:
    """The layer that an op call is, or None. state: storage pointer -> name of a parameter."""
    op = str(func)
    if op == _CONV:
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        name = _whole(weight, state)
        if transposed or name is None or weight.dim() != x.dim():
            return None
        conv = (tuple(stride), tuple(padding), tuple(dilation), groups)
        return Layer(op, name, weight, bias, _name(bias, state), x, 0, 1, conv)
    if op not in (_ADDMM, _MM):
        return None
    bias, x, weight = args if op == _ADDMM else (None, *args)
    name = _whole(weight, state)
    if name is None or _whole(x, state) is not None:
        return None
    turned = weight.stride() != (weight.shape[1], 1)  # of one row or column all are contiguous
    if bias is not None and (bias.dim() != 1 or _name(bias, state) is None):
        return None
    return Layer(op, name, weight, bias, _name(bias, state), x, *((0, 1) if turned else (1, 0)))


def _whole(tensor: Tensor, state: Mapping[int, str]) -> str | None:
    """The name of the state tensor that this is, whole: as it is or transposed."""
    name = _name(tensor, state)
    if name is None or tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        return None
    return name


def _name(tensor: Tensor | None, state: Mapping[int, str]) -> str | None:
    return None if tensor is None else state.get(tensor.untyped_storage().data_ptr())
