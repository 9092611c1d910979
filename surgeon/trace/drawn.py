"""Drawn numbers in place of computed ones, for a run that is looked at for its lines of code and shapes alone.

Of a path that the inputs do not take nobody reads the numbers; they only choose what else runs, and random ones do
that as well. So the ops where the time goes are not computed there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.trace.expensive import foreseen

_CHEAP = 1 << 24  # FLOPs that are computed all the same
_MOST = 10_000  # ops: a loop that ends once its numbers settle has no end on drawn ones
_BLOCK = (1 << 20) - 3  # numbers drawn, which are laid one after another
_STEP = 104_729  # by which one result's numbers are off those of the next


class Drawn(TorchDispatchMode):
    """Gives results of the right shape, normally distributed, for expensive ops; `ops` counts them.
    Entered before the modes that watch the run. RuntimeError where there are more than `most` of them."""

    def __init__(self, most: int = _MOST) -> None:
        super().__init__()
        self.ops, self.most = 0, most
        self._block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        expected = foreseen(func, args, kwargs)
        if expected is None or expected[1] < _CHEAP:
            return func(*args, **kwargs)
        self.ops += 1
        if self.ops > self.most:
            raise RuntimeError("a run on drawn numbers that does not end")
        device = next(x.device for x in args if isinstance(x, Tensor))
        return self._filled(torch.empty_like(expected[0], device=device))

    def _filled(self, out: Tensor) -> Tensor:
        block = self._block.roll(self.ops * _STEP).to(out)
        flat = out.as_strided((out.numel(),), (1,))
        for part in flat.split(_BLOCK):
            part.copy_(block[: len(part)])
        return out
