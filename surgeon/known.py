"""Results of expensive ops, kept by what went in: a network's other paths compute most of it once more.

The same op on the same numbers gives the same numbers, whoever asks. What went in is known again by a hash of all of
it, so that nothing is said of a run but what it would have computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

from surgeon.trace.expensive import foreseen

# FLOPs for each number that is hashed or kept, from which on computing a result takes longer than knowing it
_WORTH = 256
_MOST = 2 << 30  # bytes that are kept


class Known(TorchDispatchMode):
    """Computes each expensive result once, while there is room. Entered before the modes that watch the run;
    `met` counts results that were known."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0
        self._results: dict[bytes, Tensor] = {}
        self._room = _MOST

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        if not all(x.device.type == "cpu" for x in leaves if isinstance(x, Tensor)):
            return func(*args, **kwargs)
        expected = foreseen(func, args, kwargs)
        if expected is None or expected[1] < _WORTH * _numbers((expected[0], *leaves)):
            return func(*args, **kwargs)
        key = _key(func, leaves, spec)
        if key in self._results:
            self.met += 1
            return self._results[key].clone()
        out = func(*args, **kwargs)
        if out.nbytes <= self._room:
            self._room -= out.nbytes
            self._results[key] = out.clone()  # the run may write to its own
        return out


def _numbers(leaves: Iterable[Any]) -> int:
    return sum(x.numel() for x in leaves if isinstance(x, Tensor)) or 1


def _key(func: Any, leaves: list[Any], spec: TreeSpec) -> bytes:
    """A hash of the op and of all of its arguments, with their names and how they are laid out."""
    found = hashlib.sha256(f"{func} {spec}".encode())
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            found.update(f"|{type(leaf).__name__} {leaf!r}".encode())
            continue
        found.update(f"|{leaf.dtype} {tuple(leaf.shape)} {leaf.stride()}".encode())
        plain = leaf.resolve_conj().resolve_neg().reshape(-1).contiguous()
        found.update(plain.view(torch.uint8).numpy().data)
    return found.digest()
