"""Shape checks that torch leaves out: these ops read past a tensor's end when its size is wrong.

A stored program may come from anywhere, and program surgery changes sizes; each op here was seen
to crash the process, or to read memory that is not the tensor's, on sizes that do not fit.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import BadInput

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def guarded(op: Any) -> Callable[..., Any]:
    """The op itself, or the op behind its check. The check raises BadInput."""
    check = _CHECKS.get(op)
    return op if check is None else functools.partial(_checked, check, op)


def _checked(check: Callable[..., bool], op: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        fits = check(*args, **kwargs)
    except (AttributeError, IndexError, TypeError, ValueError, ZeroDivisionError):
        fits = False
    if not fits:
        shapes = ", ".join(_shape(arg) for arg in args if isinstance(arg, Tensor | list | tuple))
        raise BadInput(f"the sizes given to {op} do not fit each other: {shapes}")
    return op(*args, **kwargs)


def _shape(arg: Any) -> str:
    if isinstance(arg, Tensor):
        return str(list(arg.shape))
    return f"({', '.join(_shape(item) for item in arg)})" if isinstance(arg, list | tuple) else ""


def _batch_norm(x: Tensor, *rest: Any) -> bool:
    vectors = [arg for arg in rest if isinstance(arg, Tensor)]
    return x.dim() > 1 and all(list(v.shape) == [x.shape[1]] for v in vectors)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> bool:
    if dim == -1:
        return g.numel() == 1
    return list(g.shape) == [n if i == dim else 1 for i, n in enumerate(v.shape)]


def _recurrent(
    gates: int,
    x: Tensor,
    hidden: Any,
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    *rest: Any,
) -> bool:
    """Weights `[gates * hidden, ...]` for each layer and direction, states `[runs, batch, hidden]`."""
    _, _, bidirectional, batch_first = rest
    runs = layers * (2 if bidirectional else 1)
    own, left = divmod(len(weights), runs)
    cells = [weights[i * own : (i + 1) * own] for i in range(runs)]
    states = [hidden] if isinstance(hidden, Tensor) else hidden
    batch = x.shape[0] if batch_first else x.shape[1]
    if x.dim() != 3 or left or own - (2 if has_biases is False else 4) not in (0, 1):
        return False
    if len(states) != (2 if gates == 4 else 1):
        return False
    rows = weights[0].shape[0]
    state_sizes = [weights[1].shape[1], rows // gates]  # a projected LSTM hides less than it keeps
    fit = all(list(s.shape) == [runs, batch, n] for s, n in zip(states, state_sizes, strict=False))
    return fit and rows % gates == 0 and all(_cell_fits(cell, rows, state_sizes) for cell in cells)


def _cell_fits(cell: list[Tensor], rows: int, state_sizes: list[int]) -> bool:
    """One layer and direction: input and hidden weights, two biases, a projection."""
    projected = len(cell) in (3, 5)
    biases = cell[2:4] if len(cell) > 3 else []
    out, kept = state_sizes
    return (
        cell[0].dim() == 2
        and cell[0].shape[0] == rows
        and list(cell[1].shape) == [rows, out]
        and all(list(bias.shape) == [rows] for bias in biases)
        and (list(cell[-1].shape) == [out, kept] if projected else out == kept)
    )


_aten = torch.ops.aten
_CHECKS: dict[Any, Callable[..., bool]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten._native_batch_norm_legit.default: _batch_norm,
    _aten._native_batch_norm_legit.no_stats: _batch_norm,
    _aten._native_batch_norm_legit_no_training.default: _batch_norm,
    _aten._native_batch_norm_legit_functional.default: _batch_norm,
    _aten._weight_norm.default: _weight_norm,
    _aten._weight_norm_interface.default: _weight_norm,
    **{
        getattr(_aten, name).input: functools.partial(_recurrent, gates)
        for name, gates in _GATES.items()
    },
}
