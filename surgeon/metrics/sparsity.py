"""Sparsity: the share of a network's parameters that are zero."""

from __future__ import annotations

from torch import nn

from surgeon.trace.folding import read_state


def zeros(model: nn.Module) -> int:
    """Zeros among the numbers that its parameters hold; a parameter used twice counts once.

    A weight masked by torch.nn.utils.prune counts as it is with its mask. On the meta device: 0.
    """
    now = read_state(model)
    found = (now[name] for name, _ in model.named_parameters())
    return sum(int((t == 0).sum()) for t in found if not t.is_meta)


def sparsity(zeros: int, parameters: int) -> float:
    """zeros / parameters, from 0 to 1."""
    return zeros / max(parameters, 1)
