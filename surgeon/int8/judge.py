"""A file in whole numbers beside the one in float32, on the same examples: outputs, and which classes they tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgeon.metrics.accuracy import Accuracy, answer_of, are_classes
from surgeon.metrics.reconstruction import OutputError
from surgeon.pipeline.evaluated import Evaluation
from surgeon.runner.engines.ort import library

if TYPE_CHECKING:
    from surgeon.data.samples import Batch
    from surgeon.int8.source import Source

_ERRORS_ONLY = 3


def judge(
    source: Source, whole: Path, data: Iterable[Batch], held_out: bool
) -> tuple[Evaluation, float]:
    """(the outputs' error and both accuracies, the largest difference of an output relative to its range on all examples)."""
    sides = _Side(source.path), _Side(whole)
    error, apart = OutputError(), _Apart()
    for batch in data:
        for fed, labels in source.calls(batch):
            want, got = (side.run(fed, labels) for side in sides)
            real = [at for at, tensor in enumerate(want) if tensor.is_floating_point()]
            error.add([want[at] for at in real], [got[at] for at in real])
            apart.add([want[at] for at in real], [got[at] for at in real])
    told = all(side.told for side in sides)
    before, after = (side.rate.as_dict() if told else {} for side in sides)
    return Evaluation(sides[0].examples, held_out, error.value, before, after), apart.value


class _Side:
    """One file in ONNX Runtime, and how often it was right; told: whether all labels so far are classes of its answer."""

    def __init__(self, path: Path) -> None:
        ort = library()
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.rate, self.told, self.examples = Accuracy(), True, 0

    def run(self, fed: dict[str, np.ndarray], labels: Any) -> list[Tensor]:
        """Its outputs."""
        found = [torch.from_numpy(np.asarray(array)) for array in self._session.run(None, fed)]
        answer = answer_of(found)
        self.told = self.told and are_classes(answer, labels)
        if self.told and answer is not None and labels is not None:
            self.rate.add(answer, labels)
        self.examples += len(next(iter(fed.values())))
        return found


@dataclass
class _Apart:
    """Of each output: lowest and highest number in float32, and how far the other was at most."""

    ends: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def add(self, want: list[Tensor], got: list[Tensor]) -> None:
        for at, (x, y) in enumerate(zip(want, got, strict=True)):
            if x.numel():
                low, high, far = self.ends.get(at, (float("inf"), float("-inf"), 0.0))
                worst = float((x.double() - y.double()).abs().max())
                self.ends[at] = min(low, float(x.min())), max(high, float(x.max())), max(far, worst)

    @property
    def value(self) -> float:
        """0 where there were no outputs; an output of one number is taken relative to that."""
        shares = [far / ((high - low) or abs(high) or 1.0) for low, high, far in self.ends.values()]
        return max(shares, default=0.0)
