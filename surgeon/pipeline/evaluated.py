"""Both networks on the same examples: how far their outputs are apart, and which classes they tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.heal.examples import Call, Examples
from surgeon.heal.outputs import numbers
from surgeon.heal.running import running
from surgeon.heal.spool import Spool
from surgeon.metrics.accuracy import Accuracy, answer_of, are_classes
from surgeon.metrics.reconstruction import OutputError
from surgeon.score.batches import Sample
from surgeon.trace.shell import shell


@dataclass(frozen=True)
class Evaluation:
    """Of the slim network beside the original. error: of its outputs; before, after: 'top1', 'top5' where all
    examples have labels that are classes, else empty. held_out: whether the cut saw none of these examples; None where
    that is not known, as of a plan that was made elsewhere."""

    examples: int
    held_out: bool | None
    error: float
    before: dict[str, float]
    after: dict[str, float]

    @property
    def which(self) -> str:
        """Whose numbers these are, in words."""
        if self.held_out is None:
            return "given, which the plan may have been chosen on"
        return "held out" if self.held_out else "that the cut was chosen or fitted on"

    def as_dict(self) -> dict[str, Any]:
        """For report.json; drop: before - after, in shares."""
        drop = {k: self.before[k] - self.after[k] for k in self.after}
        rates = {"before": self.before, "after": self.after, "drop": drop} if self.after else None
        return {
            "examples": self.examples,
            "held_out": self.held_out,
            "which": self.which,
            "output_error": self.error,
            "accuracy": rates,
        }


def evaluate(
    model: nn.Module, slim: nn.Module, data: Iterable[Sample], held_out: bool | None
) -> Evaluation:
    """Run both, as they are in eval mode, on batches; memory does not grow with their number."""
    sides = _Side(model), _Side(slim)
    error = OutputError()
    with Spool() as spool:
        examples = Examples(data, spool, *(side.model for side in sides))
        for call in examples:
            error.add(*(side.run(call) for side in sides))
    told = all(side.told for side in sides)
    before, after = (side.rate.as_dict() if told else {} for side in sides)
    return Evaluation(examples.count, held_out, error.value, before, after)


class _Side:
    """One network, and how often it was right; told: whether all labels so far are classes of its answer."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.rate, self.told = shell(model, torch.clone).eval(), Accuracy(), True

    def run(self, call: Call) -> list[Tensor]:
        """The real numbers among its outputs."""
        with running(self.model):
            out = call.inputs.run(self.model)
        answer = answer_of(out)
        self.told = self.told and are_classes(answer, call.labels)
        if self.told and answer is not None and call.labels is not None:
            self.rate.add(answer, call.labels)
        return numbers(out)
