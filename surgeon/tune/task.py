"""What is learnt from labels: classes by cross-entropy, numbers by squared error, or by the user's own loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.tensors import output_tensors
from surgeon.tune.options import Tuning


def first_output(output: Any) -> Tensor:
    """The tensor that labels are compared with: the first of floating point. BadInput where there is none."""
    found = next((t for t in output_tensors(output) if t.is_floating_point()), None)
    if found is None:
        raise BadInput("the network gives no numbers to learn from", "its output holds no tensor")
    return found


class Task:
    """The loss of an output and labels, and the score by which epochs are compared.

    Whole-numbered labels are classes along dim 1 of the first output; others are its values.
    """

    def __init__(self, labels: Tensor | None, options: Tuning, taught: bool) -> None:
        self._own = options.loss
        self.classes = labels is not None and not labels.is_floating_point() and not self._own
        self.metric = "top-1" if self.classes else "loss"
        smoothing = 0.0 if taught else 0.1
        self._smoothing = smoothing if options.smoothing is None else options.smoothing

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """Mean over the batch. BadInput for labels that do not fit the output."""
        if self._own is not None:
            return self._own(output, labels)
        out = first_output(output)
        if self.classes:
            _fits(out, labels)
            return F.cross_entropy(out.float(), labels.long(), label_smoothing=self._smoothing)
        if out.numel() != labels.numel():
            raise BadInput(
                f"labels of {list(labels.shape)} do not fit an output of {list(out.shape)}",
                "give your own loss: --loss file.py:function of (output, labels)",
            )
        return F.mse_loss(out.float(), labels.float().view_as(out))

    @torch.no_grad()
    def score(self, output: Any, labels: Tensor) -> Tensor:
        """Mean over the batch: the share of right classes, or the loss."""
        if not self.classes:
            return self.loss(output, labels).float()
        out = first_output(output)
        _fits(out, labels)
        return (out.argmax(1) == labels).float().mean()


def _fits(out: Tensor, labels: Tensor) -> None:
    if out.dim() < 2 or out.shape[:1] + out.shape[2:] != labels.shape:
        raise BadInput(
            f"labels of {list(labels.shape)} do not fit an output of {list(out.shape)}",
            "give your own loss: --loss file.py:function of (output, labels)",
        )
    if labels.numel() and int(labels.max()) >= out.shape[1]:
        raise BadInput(
            f"a label is {int(labels.max())}, and the network tells {out.shape[1]} classes apart",
            "are these the data that it was made for?",
        )
