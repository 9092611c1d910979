"""What gradients are taken of: the user's loss, that of the labels, or the network's own prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from surgeon.errors import BadInput
from surgeon.trace.tensors import output_tensors

Loss = Callable[[Any, Any], Tensor]  # (what forward gives, labels or None) -> one number
_YOURS = "give loss=, a function (output, labels) -> one number"


def loss_of(output: Any, labels: Any, own: Loss | None, draw: torch.Generator) -> Tensor:
    """One number to differentiate: [].

    own: the user's. Else, with labels: cross entropy of the first output (`logits` where one is named so) with whole
    numbers, mean squared error with others. Without labels: minus the log likelihood of outputs drawn from the
    network's own prediction, a Gaussian around it as wide as the output's root mean square; the mean of its squared gradients is the true
    Fisher information (the distance to the prediction itself has gradient zero).
    """
    if own is not None:
        return _number(own(output, labels))
    if labels is not None:
        return _labelled(output, labels)
    terms = [(out * _noise(out, draw)).sum() / _width(out) for out in _outputs(output)]
    return torch.stack([t.float() for t in terms]).sum()


def distance(output: Any) -> Tensor:
    """Half the squared distance of the outputs from themselves as constants, relative to their mean squares: zero, with a
    zero gradient; its Hessian says what a change of the weights does to the outputs."""
    terms = [((out - out.detach()) / _width(out)).square().sum() / 2 for out in _outputs(output)]
    return torch.stack([t.float() for t in terms]).sum()


def _outputs(output: Any) -> list[Tensor]:
    floats = [t for t in output_tensors(output) if t.is_floating_point()]
    found = [t for t in floats if t.requires_grad or not torch.is_grad_enabled()]
    if not found:
        raise BadInput(
            "no output depends on the weights in a way that can be differentiated", _YOURS
        )
    return found


def _labelled(output: Any, labels: Any) -> Tensor:
    first = getattr(output, "logits", None)
    first = first if isinstance(first, Tensor) else _outputs(output)[0]
    labels = torch.as_tensor(labels, device=first.device)
    try:
        if labels.is_floating_point():
            return functional.mse_loss(first, labels.to(first.dtype).reshape(first.shape))
        return functional.cross_entropy(first, labels)
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadInput(
            f"labels {list(labels.shape)} do not fit the first output {list(first.shape)}: {error}",
            _YOURS,
        ) from error


def _number(loss: Any) -> Tensor:
    flat = isinstance(loss, Tensor) and torch.is_grad_enabled() and not loss.requires_grad
    if not isinstance(loss, Tensor) or loss.numel() != 1 or flat:
        what = f"{list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise BadInput(f"the loss must be one number with a gradient, not {what}", _YOURS)
    return loss.reshape(())


def _width(out: Tensor) -> Tensor:
    return out.detach().square().mean().sqrt().clamp_min(torch.finfo(out.dtype).tiny)


def _noise(out: Tensor, draw: torch.Generator) -> Tensor:
    # drawn where the generator is, so that every device sees the same
    return torch.randn(out.shape, generator=draw).to(out.device, out.dtype)
