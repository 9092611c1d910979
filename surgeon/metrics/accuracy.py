"""Accuracy: the share of labels that are the output's largest class (top-1), or among its five largest (top-5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from surgeon.trace.tensors import output_tensors

KS: tuple[int, ...] = (1, 5)


def answer_of(output: Any) -> Tensor | None:
    """The tensor that labels are compared with: `logits` where one is named so, else the first of floating point."""
    named = getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    return next((t for t in output_tensors(output) if t.is_floating_point()), None)


def are_classes(answer: Tensor | None, labels: Any) -> bool:
    """Whether labels [examples, ...] are whole numbers that say a class of an answer [examples, classes, ...]."""
    if answer is None or not isinstance(labels, Tensor) or labels.dtype not in _WHOLE:
        return False
    fits = answer.dim() >= 2 and answer.shape[:1] + answer.shape[2:] == labels.shape
    return (
        fits
        and bool(labels.numel())
        and 0 <= int(labels.min()) <= int(labels.max()) < answer.shape[1]
    )


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Accuracy:
    """Counted batch by batch. `top(k)`: hits / labels, from 0 to 1; k at most the number of classes."""

    def __init__(self) -> None:
        self.labels = self.classes = 0
        self._hits: dict[int, int] = dict.fromkeys(KS, 0)

    def add(self, answer: Tensor, labels: Tensor) -> None:
        """One batch: an answer [examples, classes, ...] and its labels, which `are_classes` of it."""
        self.classes = answer.shape[1]
        self.labels += labels.numel()
        own = labels.to(answer.device).long().unsqueeze(1)
        best = answer.topk(min(max(KS), self.classes), 1).indices
        for k in KS:
            self._hits[k] += int((best[:, :k] == own).sum())

    def top(self, k: int = 1) -> float:
        """0 where there were no labels."""
        return self._hits[k] / max(self.labels, 1)

    def as_dict(self) -> dict[str, float]:
        """'top1', and 'top5' where there are more than five classes."""
        return {f"top{k}": self.top(k) for k in KS if k < self.classes or k == 1}
