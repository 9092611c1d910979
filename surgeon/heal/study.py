"""What the data say before a cut: in which order channels go, and what each group's loss costs the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from surgeon.couple import Coupling
from surgeon.heal.consumers import consumers_of
from surgeon.heal.curves import Bench, curve, marks_of
from surgeon.heal.examples import Examples
from surgeon.heal.removal import removal
from surgeon.heal.spool import Spool
from surgeon.score.batches import RECOVERY, Sample
from surgeon.trace.shell import shell

MEASURED = (
    256  # examples that losses of the outputs are measured on, and what is left of their last call
)
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
    data: Iterable[Sample],
    parts: Iterable[str] = RECOVERY,
) -> Study:
    """Orders (with 'select' among the parts; else those of the scores) and curves (with 'allocate')."""
    parts = set(parts)
    model = shell(model, torch.clone).eval()  # weights are put aside while it is looked at
    groups = [g for g in coupling.groups if g.name in scores]
    ranks: dict[str, Array] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    with Spool() as spool:
        examples = Examples(data, spool, model)
        consumers = consumers_of(model, groups, examples)
        few = [call for call in examples if call.first < MEASURED]
        bench = Bench(model, few, spool) if "allocate" in parts else None
        for group in groups:
            marks = marks_of(group.size) if bench else ()
            found = removal(group, consumers, marks, scores[group.name], free="select" in parts)
            ranks[group.name] = np.argsort(found.order).astype(np.float64)
            if bench:
                curves[group.name] = curve(bench, group, found)
    return Study(ranks, curves)
