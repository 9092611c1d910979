"""Fused ops as the plain ops that they stand for, which have channel rules.

CUDA runs a step of an LSTM or a GRU as one op; run on other tensors the same network is plain ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, x_bias: Tensor | None = None, h_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x, h: gates f32[N, 4 * H] of the input and of the state; c: f32[N, H] -> h, c and the gates."""
    gates = _biased(x, x_bias) + _biased(h, h_bias)
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c, gates


def _gru_cell(
    x: Tensor, h: Tensor, state: Tensor, x_bias: Tensor | None = None, h_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x, h: gates f32[N, 3 * H] of the input and of the state; state: f32[N, H] -> state and gates."""
    x, h = _biased(x, x_bias), _biased(h, h_bias)
    (x_reset, x_update, x_new), (h_reset, h_update, h_new) = x.chunk(3, 1), h.chunk(3, 1)
    update = (x_update + h_update).sigmoid()
    new = (x_new + (x_reset + h_reset).sigmoid() * h_new).tanh()
    return (state - new) * update + new, x


def _biased(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias


PLAIN: dict[Any, Callable[..., Any]] = {
    aten._thnn_fused_lstm_cell.default: _lstm_cell,
    aten._thnn_fused_gru_cell.default: _gru_cell,
}
