"""The outputs of a network that are real numbers: what recovery is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from surgeon.heal.running import running
from surgeon.heal.spool import Spool, Stored
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import output_tensors


def numbers(output: Any) -> list[Tensor]:
    """Those among what a forward gave."""
    return [t.detach() for t in output_tensors(output) if t.is_floating_point()]


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Those of one call."""
    with running(model):
        return numbers(inputs.run(model))


def put(spool: Spool, tensors: Sequence[Tensor]) -> list[Stored]:
    """Outputs put aside."""
    return [spool.put(t) for t in tensors]
