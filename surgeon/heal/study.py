"""What the data say before a cut: in which order channels go, and what each group's loss costs the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from surgeon.couple import Coupling
from surgeon.errors import BadInput
from surgeon.heal.consumers import consumers_of
from surgeon.heal.curves import Bench, curve, marks_of
from surgeon.heal.removal import removal
from surgeon.score.batches import RECOVERY, Sample
from surgeon.trace.inputs import Inputs
from surgeon.trace.shell import shell

MEASURED = 256  # examples that losses of the outputs are measured on
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Study:
    """`scores`: group -> [channels], the lowest go first. `curves`: group -> [(channels gone, loss)]."""

    scores: Mapping[str, Array]
    curves: Mapping[str, list[tuple[int, float]]]


def study(
    model: nn.Module,
    coupling: Coupling,
    scores: Mapping[str, Array],
    inputs: Inputs,
    parts: Iterable[str] = RECOVERY,
) -> Study:
    """Orders (with 'select' among the parts; else those of the scores) and curves (with 'allocate')."""
    parts = set(parts)
    model = shell(model, torch.clone).eval()  # weights are put aside while it is looked at
    groups = [g for g in coupling.groups if g.name in scores]
    consumers = consumers_of(model, groups, inputs)
    bench = Bench(model, inputs.map(lambda t: t[:MEASURED])) if "allocate" in parts else None
    ranks: dict[str, Array] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for group in groups:
        marks = marks_of(group.size) if bench else ()
        found = removal(group, consumers, marks, scores[group.name], free="select" in parts)
        ranks[group.name] = np.argsort(found.order).astype(np.float64)
        if bench:
            curves[group.name] = curve(bench, group, found)
    return Study(ranks, curves)


def joined(batches: Iterable[Sample]) -> tuple[Inputs, torch.Tensor | None]:
    """All examples as one call, along dim 0 of every tensor, and their labels where all have some.

    BadInput where a batch has no dimension that its tensors share.
    """
    calls, labels = [], []
    for batch in batches:
        if not batch.inputs.batch:
            raise BadInput(
                "the inputs of these data share no batch along dim 0",
                "leave out --data, or give batches whose tensors all count examples first",
            )
        calls.append(batch.inputs)
        labels.append(batch.labels)
    leaves = [pytree.tree_flatten(call) for call in calls]
    spec = leaves[0][1]
    both = [_cat(parts) for parts in zip(*(leaf for leaf, _ in leaves), strict=True)]
    known = [x for x in labels if isinstance(x, torch.Tensor)]
    together = torch.cat(known) if len(known) == len(labels) else None
    return pytree.tree_unflatten(both, spec), together


def _cat(parts: tuple[object, ...]) -> object:
    tensors = [p for p in parts if isinstance(p, torch.Tensor)]
    return torch.cat(tensors) if len(tensors) == len(parts) else parts[0]
