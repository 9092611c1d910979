"""After a cut that was proven: fit the slim network to the dense one, and say what the outputs lost before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.heal.examples import Call, Examples
from surgeon.heal.outputs import outputs, put
from surgeon.heal.refit import Fitting
from surgeon.heal.spool import Spool
from surgeon.metrics.accuracy import Accuracy, are_classes
from surgeon.metrics.reconstruction import OutputError
from surgeon.plan import Plan
from surgeon.score.batches import Sample
from surgeon.trace.shell import shell


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


def recover(model: nn.Module, slim: nn.Module, plan: Plan, data: Iterable[Sample]) -> Recovery:
    """Fit `slim` in place. Where that makes the outputs worse, the cut weights are put back."""
    model = shell(model, torch.clone).eval()  # one in train mode would move its running statistics
    with Spool() as spool:
        examples = Examples(data, spool, model, slim)
        fitting = Fitting(model, slim, plan, examples.count, spool)
        cut, fitted, top = OutputError(), OutputError(), (_Top(), _Top(), _Top())
        wanted = []
        for call in examples:
            want, got = fitting.look(call)
            cut.add(want, got)
            top[0].add(want, call)
            top[1].add(got, call)
            wanted.append(put(spool, want))
        kept = {n: t.detach().clone() for n, t in slim.state_dict().items()}
        healed = fitting.fit()
        for call, want in zip(examples, wanted, strict=True):
            got = outputs(slim, call.inputs)
            fitted.add([s.get() for s in want], got)
            top[2].add(got, call)
    notes, rates = examples.notes + healed.notes, [t.rate for t in top]
    layers, after = healed.layers, fitted.value
    if not after <= cut.value:
        slim.load_state_dict(kept)
        notes += ("fitting made the outputs worse and was undone",)
        layers, after, rates[2] = (), cut.value, rates[1]
    known = [r for r in rates if r is not None]
    accuracy = (known[0], known[1], known[2]) if len(known) == len(rates) else None
    return Recovery(examples.count, cut.value, after, layers, accuracy, notes)


class _Top:
    """Top-1 of the first output; not known where labels of some call are no classes of it."""

    def __init__(self) -> None:
        self._found, self._known = Accuracy(), True

    def add(self, outputs: Sequence[Tensor], call: Call) -> None:
        first, labels = outputs[0] if outputs else None, call.labels
        self._known = self._known and are_classes(first, labels)
        if self._known and first is not None and labels is not None:
            self._found.add(first, labels)

    @property
    def rate(self) -> float | None:
        return self._found.top() if self._known else None
