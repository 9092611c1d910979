"""The user's examples in calls of bounded size: read once, put aside, and gone through as often as needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgeon.errors import BadInput
from surgeon.heal.running import running
from surgeon.heal.spool import Spool, Stored
from surgeon.score.batches import Sample
from surgeon.score.watch import to_device
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import Program
from surgeon.trace.record import forward_failed
from surgeon.trace.tensors import named_state

SIZE = 64  # examples of a call
BYTES = 8 * 2**20  # of its inputs: what a forward makes of large pictures is much more


@dataclass(frozen=True)
class Call:
    """Some of the examples: the first one's number, how many there are, their inputs, put aside, and labels."""

    first: int
    count: int
    aside: Inputs
    labels: Tensor | None = None

    @property
    def inputs(self) -> Inputs:
        """A copy: a network may write into its inputs."""
        return pytree.tree_map_only(Stored, lambda s: s.get().clone(), self.aside)


class Examples:
    """Calls for networks that run on the same inputs. `count` examples; `notes` say what was left out.

    Calls have `size` examples (by default what SIZE and BYTES allow) where all networks take that; the
    batch that a program was captured with where it is fixed; else the data's own batches. So results do
    not depend on how the data are cut into batches. BadInput where a batch has no dimension that its tensors share.
    """

    def __init__(
        self, data: Iterable[Sample], spool: Spool, *models: nn.Module, size: int | None = None
    ) -> None:
        self.count = 0
        self.notes: tuple[str, ...] = ()
        self._calls: list[Call] = []
        self._spool, self._models = spool, models
        self._rule: tuple[int | None, bool] | None = None if size is None else (size, False)
        pending: list[Sample] = []
        for batch in data:
            if not batch.inputs.batch:
                raise BadInput(
                    "the inputs of these data share no batch along dim 0",
                    "leave out --data, or give batches whose tensors all count examples first",
                )
            if pending and _kind(pending[0].inputs) != _kind(batch.inputs):
                self._take(pending, True)
                pending = []
            pending = self._take([*pending, batch], False)
        self._take(pending, True)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def _take(self, pending: list[Sample], all_of_it: bool) -> list[Sample]:
        """Calls out of the batches that are there; what is left waits for more, but for the last ones."""
        if not pending:
            return []
        size, whole = self._rule = self._rule or _rule(pending[0].inputs, self._models)
        both = _joined(pending)
        total = both.inputs.batch
        size, at = size or total, 0
        while total - at >= size:
            self._put(_part(both, at, at + size))
            at += size
        if at == total:
            return []
        rest = _part(both, at, total)
        if all_of_it and whole:
            self.notes += (f"{total - at} examples left out: they make no batch of {size}",)
        elif all_of_it:
            self._put(rest)
        return [rest]

    def _put(self, one: Sample) -> None:
        state = named_state(self._models[0]) if self._models else {}
        aside = to_device(one.inputs, state).map(self._spool.put)
        self._calls.append(Call(self.count, one.inputs.batch, aside, one.labels))
        self.count += one.inputs.batch


def _rule(inputs: Inputs, models: Iterable[nn.Module]) -> tuple[int | None, bool]:
    """Examples of a call (None: the data's own batches), and whether none may have fewer."""
    for model in models:
        fixed = [s[0] for s in model.sizes if s and s[0]] if isinstance(model, Program) else []
        if fixed:
            return fixed[0], True
    few = _cut(inputs, 0, 2)
    if any(_failure(model, few) for model in models):
        for model in models:
            if (error := _failure(model, inputs)) is not None:
                raise forward_failed(error, inputs) from error
        return None, False
    each = sum(t.numel() * t.element_size() for t in inputs.tensors) // inputs.batch
    return max(1, min(SIZE, BYTES // max(each, 1))), False


def _failure(model: nn.Module, inputs: Inputs) -> Exception | None:
    """A network that is made for one batch size says so in its own way."""
    try:
        with running(model):
            to_device(inputs, named_state(model)).run(model)
    except Exception as error:  # noqa: BLE001
        return error
    return None


def _kind(inputs: Inputs) -> tuple[Any, ...]:
    """What batches that can be put together have alike."""
    leaves, spec = pytree.tree_flatten(inputs)
    alike = [
        (x.dtype, x.shape[1:], x.dim() > 0) if isinstance(x, Tensor) else repr(x) for x in leaves
    ]
    return str(spec), *alike


def _joined(parts: list[Sample]) -> Sample:
    if len(parts) == 1:
        return Sample(parts[0].inputs, _labels(parts[0]))
    leaves = [pytree.tree_flatten(p.inputs) for p in parts]
    both = [_cat(same) for same in zip(*(leaf for leaf, _ in leaves), strict=True)]
    labels = [_labels(p) for p in parts]
    known = [x for x in labels if x is not None]
    together = torch.cat(known) if len(known) == len(labels) else None
    return Sample(pytree.tree_unflatten(both, leaves[0][1]), together)


def _cat(same: tuple[Any, ...]) -> Any:
    first = same[0]
    return torch.cat(same) if isinstance(first, Tensor) and first.dim() else first


def _labels(one: Sample) -> Tensor | None:
    """Those of which there is one an example."""
    known = isinstance(one.labels, Tensor) and one.labels.shape[:1] == (one.inputs.batch,)
    return one.labels if known else None


def _part(one: Sample, first: int, last: int) -> Sample:
    labels = one.labels[first:last] if one.labels is not None else None
    return Sample(_cut(one.inputs, first, last), labels)


def _cut(inputs: Inputs, first: int, last: int) -> Inputs:
    return inputs.map(lambda t: t[first:last] if t.dim() else t)
