"""The network inside the wrappers that training puts around it."""

from __future__ import annotations

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DDP and torch.compile wrappers."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model
