"""After a cut that was proven: fit the slim network to the dense one, and say what the outputs lost before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.heal.curves import distance
from surgeon.heal.refit import refit
from surgeon.heal.running import running
from surgeon.metrics.accuracy import Accuracy, are_classes
from surgeon.plan import Plan
from surgeon.trace.inputs import Inputs
from surgeon.trace.shell import shell
from surgeon.trace.tensors import output_tensors

_BATCH = 64


@dataclass(frozen=True)
class Recovery:
    """Errors of the outputs on the data given, relative to their variance: as cut, and fitted.

    `accuracy`: top-1 of the dense, the cut and the fitted network on these data, where they have labels.
    `layers`: (weight, relative error of its result before, after).
    """

    examples: int
    cut: float
    fitted: float
    layers: tuple[tuple[str, float, float], ...]
    accuracy: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        names = ("dense", "cut", "fitted")
        top = dict(zip(names, self.accuracy, strict=True)) if self.accuracy else None
        layers = [{"weight": n, "before": a, "after": b} for n, a, b in self.layers]
        errors = {"cut": self.cut, "fitted": self.fitted}
        return {"examples": self.examples, "output_error": errors, "top1": top, "layers": layers}

    def how(self) -> Mapping[str, Any]:
        """What a plan says of weights that were changed after the cut."""
        return {"by": "least squares", "examples": self.examples, "layers": len(self.layers)}


def recover(
    model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs, labels: Tensor | None
) -> Recovery:
    """Fit `slim` in place. Where that makes the outputs worse, the cut weights are put back."""
    model = shell(model, torch.clone).eval()  # one in train mode would move its running statistics
    want, cut = _outputs(model, inputs), _outputs(slim, inputs)
    before = distance(want, cut)
    kept = {n: t.detach().clone() for n, t in slim.state_dict().items()}
    healed = refit(model, slim, plan, inputs)
    got = _outputs(slim, inputs)
    after, notes = distance(want, got), healed.notes
    layers = healed.layers
    if not after <= before:
        slim.load_state_dict(kept)
        notes += ("fitting made the outputs worse and was undone",)
        after, got, layers = before, cut, ()
    top = [_top1(x, labels) for x in (want, cut, got)]
    known = [t for t in top if t is not None]
    accuracy = (known[0], known[1], known[2]) if len(known) == 3 else None
    return Recovery(inputs.batch, before, after, layers, accuracy, notes)


def _outputs(model: nn.Module, inputs: Inputs) -> list[list[Tensor]]:
    """Floating point outputs, batch by batch."""
    found = []
    with running(model):
        for first in range(0, inputs.batch, _BATCH):
            part = inputs.map(lambda t, a=first: t[a : a + _BATCH])
            outs = output_tensors(part.run(model))
            found.append([t.detach() for t in outs if t.is_floating_point()])
    return found


def _top1(outputs: list[list[Tensor]], labels: Tensor | None) -> float | None:
    """Share of labels that the first output's largest class is; None where they are no classes of it."""
    first = torch.cat([batch[0] for batch in outputs]) if outputs[0] else None
    if first is None or labels is None or not are_classes(first, labels):
        return None
    found = Accuracy()
    found.add(first, labels)
    return found.top()
