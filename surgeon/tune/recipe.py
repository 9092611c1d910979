"""Optimizer, learning rate and averaged weights: torch's own, with the defaults of each kind of network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from surgeon.errors import BadInput
from surgeon.tune.options import Tuning

_DEFAULTS = {"sgd": (0.05, 5e-4, None), "adamw": (2e-4, 0.01, 1.0)}  # lr, weight decay, clip


def optimizer_name(model: nn.Module, options: Tuning) -> str:
    """The optimizer meant by auto: batch norm makes a network want SGD's large steps, the others want Adam's."""
    if options.optimizer != "auto":
        return options.optimizer
    statistics = any(name.endswith("running_var") for name, _ in model.named_buffers())
    return "sgd" if statistics else "adamw"


def make_optimizer(model: nn.Module, options: Tuning) -> torch.optim.Optimizer:
    """Of all trainable weights; scales and biases, which have one dimension, do not decay."""
    lr, decay, _ = _DEFAULTS[optimizer_name(model, options)]
    lr = lr if options.lr is None else options.lr
    decay = decay if options.weight_decay is None else options.weight_decay
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise BadInput("the network has no weights that can be trained", "set requires_grad")
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimizer_name(model, options) == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=lr, momentum=options.momentum, nesterov=nesterov)


def clip_of(model: nn.Module, options: Tuning) -> float | None:
    """The largest norm of all gradients, or None."""
    if options.clip is not None:
        return options.clip or None
    return _DEFAULTS[optimizer_name(model, options)][2]


def make_schedule(optimizer: torch.optim.Optimizer, options: Tuning, steps: int) -> LambdaLR:
    """Warm-up, then down to zero over all `steps`."""
    warm = round(options.warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return _FALLS[options.schedule](done)

    return LambdaLR(optimizer, factor)


_FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential mean of weights and buffers; early on of few steps, as an average of 500 would be of none."""
    if not decay:
        return None

    def mean(old: Sequence[Tensor], new: Sequence[Tensor], count: Any) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        for a, b in zip(old, new, strict=True):
            if a.is_floating_point():
                a.lerp_(b.to(a.dtype), 1 - now)
            else:
                a.copy_(b)

    return AveragedModel(model, multi_avg_fn=mean, use_buffers=True)
