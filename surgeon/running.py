"""A forward of a copy, in a precision of its own, on copies of the inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.errors import BadInput, CheckFailed
from surgeon.quick import Quick
from surgeon.still import drawing
from surgeon.trace.inputs import Inputs
from surgeon.trace.mode import forward_mode
from surgeon.trace.record import forward_failed
from surgeon.trace.shell import shell
from surgeon.trace.tensors import output_tensors
from surgeon.widths import cast


def as_dtype(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy in eval mode with its floating point state in `dtype`."""
    return shell(model, lambda t: cast(t, dtype)).eval()


def run(
    model: nn.Module, inputs: Inputs, mode: TorchDispatchMode | None = None, fused: bool = False
) -> list[Tensor]:
    """The tensors of its output; BadInput where it fails. fused: attention as one op, as torch chooses."""
    with torch.inference_mode(False):
        inputs = inputs.map(torch.clone)
    try:
        with forward_mode(model, fused), drawing(), Quick():
            if mode is None:
                return output_tensors(inputs.run(model))
            with mode:
                return output_tensors(inputs.run(model))
    except (CheckFailed, BadInput):
        raise
    except Exception as error:
        raise forward_failed(error, inputs) from error
