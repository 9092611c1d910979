"""A chosen part of the data, in batches that can be gone through again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

Change = Callable[[Tensor, int], Tensor]  # a picture [C, H, W] and the number of its example

_HELD = 256 * 2**20  # bytes of read batches that are kept, so that a second pass reads nothing


@dataclass(frozen=True)
class DataOptions:
    """How data are read.

    samples: how many, chosen by `seed`; None for all. batch: how many at once. mean, std: of each
    channel, on pixels from 0 to 1; those of the library that `arch` names by default, else ImageNet's.
    """

    samples: int | None = 128
    batch: int = 32
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    arch: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("batch", self.batch)):
            if value is not None and value < 1:
                raise BadInput(f"{name} is {value}", "at least one")
        if self.std is not None and not all(s > 0 for s in self.std):
            raise BadInput(f"std {self.std} is not above zero", "leave it out for the default")


@dataclass(frozen=True)
class Batch:
    """One call's inputs, and the labels where there are any: one entry an example, along dim 0."""

    inputs: Inputs
    labels: Tensor | None = None

    @property
    def count(self) -> int:
        """How many examples."""
        return self.inputs.tensors[0].shape[0]


class Examples(Protocol):
    """All the data that a reference names, each example by its number; the order is the same everywhere."""

    count: int
    labelled: bool
    classes: tuple[str, ...]  # empty where labels have no names
    notes: tuple[str, ...]
    pictures: bool  # whether `change` is heeded

    def batch(self, indices: Sequence[int], change: Change | None = None) -> Batch:
        """These examples in this order; pictures go through `change` before they are normalised."""
        ...


class Samples:
    """Batches of chosen examples: an iterable of `Batch` that may be gone through many times.

    count: examples. labelled: whether batches have labels. classes: their names where known. notes:
    sentences for the user: where the data are from, their size and how they are normalised. about: the same for a plan.
    """

    def __init__(self, examples: Examples, options: DataOptions) -> None:
        self.examples = examples
        self.labelled, self.classes = examples.labelled, examples.classes
        self.indices = chosen(examples.count, options)
        self.count = len(self.indices)
        of_all = "all" if self.count == examples.count else f"{self.count} of"
        seed = "" if self.count == examples.count else f", chosen by seed {options.seed}"
        self.notes = (f"data: {of_all} {examples.count} examples{seed}", *examples.notes)
        if options.samples is not None and options.samples > examples.count:
            self.notes += (
                f"{options.samples} examples were asked for, there are {examples.count}",
            )
        self.about: dict[str, Any] = {
            "examples": self.count,
            "of": examples.count,
            "seed": options.seed,
        }
        self.about |= getattr(examples, "about", {})
        self._parts = [
            self.indices[at : at + options.batch] for at in range(0, self.count, options.batch)
        ]
        self._held: dict[int, Batch] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """How many batches."""
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        for number, part in enumerate(self._parts):
            batch = self._held.get(number) or self._read(number, part)
            # a network may write into its inputs
            yield Batch(batch.inputs.map(lambda t: t.clone()), batch.labels)

    def _read(self, number: int, part: Sequence[int]) -> Batch:
        batch = self.examples.batch(part)
        size = sum(t.numel() * t.element_size() for t in batch.inputs.tensors)
        if self._bytes + size <= _HELD:
            self._held[number], self._bytes = batch, self._bytes + size
        return batch


def chosen(count: int, options: DataOptions) -> list[int]:
    """Which of `count` examples are used, in the order in which they are used: the same on every machine."""
    wanted = count if options.samples is None else min(options.samples, count)
    # in random order, since files are sorted by class and a batch of one class says little
    return Random(options.seed).sample(range(count), wanted)
