"""What the oracle runs networks on: noise in the place of numbers, as it says more than one example does.

Inputs whose numbers are positions (boxes with the number of their picture, categories among real numbers) stay as
they are given: others may lie outside of what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.compare import is_number
from surgeon.errors import BadInput
from surgeon.running import as_dtype, run
from surgeon.trace.drawn import Drawn
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import named_state, output_tensors, tensors_among
from surgeon.widths import widened

_ENOUGH = 1000  # expensive ops, behind which nothing is an input as it was given any more
Indexed = frozenset[int]  # which of `Inputs.tensors` hold positions

_BOXES = frozenset(
    f"torchvision::{n}" for n in "roi_align roi_pool ps_roi_align ps_roi_pool".split()
)


def indexed(model: nn.Module, inputs: Inputs) -> Indexed:
    """Inputs of real numbers that are used as positions, before any weight meets them; seen in one run of a copy.

    What is expensive has met weights, and is drawn.
    """
    if not any(is_number(t) for t in inputs.tensors):
        return frozenset()
    twin = as_dtype(model, None)
    seen = _Positions(twin)
    with suppress(BadInput), Drawn(_ENOUGH):
        run(_Marked(twin, seen), inputs, seen, fused=True)
    return frozenset(seen.found)


def noisy(inputs: Inputs, seed: int, dtype: torch.dtype | None, given: Indexed) -> Inputs:
    """Normally distributed numbers of the same shapes, in `dtype`; positions, whole numbers and masks as they are."""
    generator = torch.Generator().manual_seed(seed)

    def noise(t: Tensor, own: bool) -> Tensor:
        if not is_number(t):
            return t
        new = torch.complex128 if t.is_complex() else torch.float64
        drawn = t if own else torch.randn(t.shape, generator=generator, dtype=new)
        return drawn.to(t.device, widened(t.dtype, dtype))

    return _mapped(inputs, given, noise)


def flipped(inputs: Inputs, rank: int, given: Indexed) -> Inputs:
    """Every tensor of at least this rank in reverse order; positions in real numbers as they are."""
    return _mapped(inputs, given, lambda t, own: t if own or t.dim() < rank else t.flip(-1))


def turned(inputs: Inputs) -> Inputs:
    """The examples of the batch in another order, the last one first."""
    return inputs.map(lambda t: t.roll(1, 0) if t.dim() else t)


def _mapped(inputs: Inputs, given: Indexed, change: Callable[[Tensor, bool], Tensor]) -> Inputs:
    number = count()
    return inputs.map(lambda t: change(t, next(number) in given))


class _Marked(nn.Module):
    """A model whose run tells a mode what its inputs are."""

    def __init__(self, model: nn.Module, mode: _Positions) -> None:
        super().__init__()
        self.model, self.mode = model, mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.mode.begin(Inputs(args, kwargs))
        return output_tensors(self.model(*args, **kwargs))


class _Positions(TorchDispatchMode):
    """Follows each input through ops that no weight takes part in, to where its numbers are positions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: set[int] = set()
        self._state = {id(t) for t in named_state(model).values()}
        self._from: Any = WeakIdKeyDictionary()  # a tensor: the inputs that it is made of

    def begin(self, inputs: Inputs) -> None:
        for n, tensor in enumerate(inputs.tensors):
            if is_number(tensor):
                self._from[tensor] = frozenset({n})

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        read = list(tensors_among((*args, *kwargs.values())))
        sources = [self._from.get(t, frozenset()) for t in read]
        if func._schema.name in _BOXES:
            self.found |= sources[1]
        made = frozenset().union(*sources)
        if made and _is_whole(kwargs.get("dtype")):
            self.found |= made
        out = func(*args, **kwargs)
        if made and not any(id(t) in self._state for t in read):
            for t in tensors_among((out,)):
                self._from[t] = made
        return out


def _is_whole(new: torch.dtype | None) -> bool:
    """Whether an op makes whole numbers of real ones."""
    return (
        new is not None and new is not torch.bool and not (new.is_floating_point or new.is_complex)
    )
