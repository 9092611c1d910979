"""Random weights that carry every feature to the output, whatever the model's own do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgeon.trace.tensors import named_state

# (gain, seed). Sums over many residual branches keep their size with the first, chains of layers with the
# second; the others pass thresholds, on one side or the other
DRAWS = ((1.0, 0), (2.0, 0), (30.0, 1), (30.0, 2), (30.0, 3))
USUAL = DRAWS[1]


@torch.no_grad()
def shake(model: nn.Module, seed: int = 0, gain: float = 2.0) -> None:
    """Fill the floating point state in place: matrices of variance gain / fan-in, positive vectors
    (scales, variances) in [0.5, 1.5), others (biases, means) small."""
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for tensor in named_state(model).values():
        if id(tensor) in seen or not tensor.is_floating_point() or not tensor.numel():
            continue
        seen.add(id(tensor))
        tensor.copy_(_drawn(tensor, generator, gain).to(tensor))


def _drawn(tensor: Tensor, generator: torch.Generator, gain: float) -> Tensor:
    if sum(n > 1 for n in tensor.shape) >= 2:
        fan_in = tensor.numel() / tensor.shape[0]
        return (
            torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            * (gain / fan_in) ** 0.5
        )
    values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
    return (
        values + 0.5
        if bool((tensor.nan_to_num(1) > 0).all())
        else (values - 0.5) * 0.1 * max(gain, 2)
    )
