"""A network as its tensors see it: tensors in, in order, and tensors out, whatever structure its forward has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgeon.measure.runtime import named_tensors
from surgeon.trace.inputs import Inputs


class Flat(nn.Module):
    """Calls `model` as `inputs` do, with other tensors in their places; numbers among the inputs are constants of it."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._spec = pytree.tree_flatten(Inputs.of(inputs))
        self.training = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that it is called with."""
        return tuple(leaf for leaf in self._leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        call: Inputs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(tensor for _, tensor in named_tensors(call.run(self.model)))
