"""A plan tried out before it is carried out: the network computes what it would without the plan's channels, reversibly."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.masked import Masked
from surgeon.plan import Keep, Plan
from surgeon.planning import refuse_other_shapes
from surgeon.trace.folding import ready
from surgeon.trace.mode import forward_mode
from surgeon.trace.shell import shell
from surgeon.trace.tensors import named_state, output_tensors
from surgeon.trace.wrappers import unwrapped


def mask(model: nn.Module, plan: Plan) -> Mask:
    """Let `model` compute what the cut network would, until the handle's `remove()` or the end of a `with`.

    What the plan removes is zero after every op, and ops that mix channels (softmax, norms, means) run on those that
    stay, as in the oracle. Weights are not touched: those that the model has now are used, so that it is for trying out and
    not for training; no gradients are made. Raises BadInput for another model's plan, and where the model is masked already.

    >>> with surgeon.mask(model, plan):  # doctest: +SKIP
    ...     score = evaluate(model)
    """
    return Mask(model, plan)


class Mask:
    """The handle of `mask`."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model = unwrapped(model)
        own = vars(self._model)
        if isinstance(own.get("forward"), _Forward):
            raise BadInput("the model is masked already", "remove() the first mask")
        plain = ready(self._model).model
        refuse_other_shapes(plan, {n: tuple(t.shape) for n, t in named_state(plain).items()})
        # what is dead leaves the outputs as they are
        keep = {} if plan.carries is not None else plan.keep
        twin = shell(plain, torch.clone)
        self._before = {n: own[n] for n in ("forward",) if n in own}
        self._forward = _Forward(twin, keep)
        own["forward"] = self._forward

    def remove(self) -> None:
        """Give the model its own forward back. More than once does no harm."""
        own = vars(self._model)
        if own.get("forward") is self._forward:
            del own["forward"]
            own.update(self._before)

    def __enter__(self) -> Mask:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.remove()


class _Forward:
    """A forward of the copy with masks, in place of the model's own."""

    def __init__(self, twin: nn.Module, keep: Keep) -> None:
        self._twin, self._keep = twin, keep

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with forward_mode(self._twin):
            masked = Masked(self._twin, self._keep)
            with masked:
                out = self._twin(*args, **kwargs)
            masked.masks.refuse_told(output_tensors(out))
        return out
