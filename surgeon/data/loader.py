"""The user's own reading of data: `file.py:loader`, a function that gives a DataLoader or batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from surgeon.data.samples import Batch, Change, DataOptions
from surgeon.data.shape import Pair, paired
from surgeon.errors import BadInput
from surgeon.files.arch import import_file
from surgeon.trace.inputs import Inputs

_FORM = "write file.py:loader, where loader() gives a DataLoader or batches: x or (x, labels)"


class Collated:
    """`Examples` of a dataset with numbers, put together by the DataLoader's own function."""

    classes: tuple[str, ...] = ()
    pictures = False

    def __init__(self, dataset: Any, collate: Callable[..., Any], like: Inputs, name: str) -> None:
        self._dataset, self._collate, self._like, self._name = dataset, collate, like, name
        self.count = len(dataset)
        if not self.count:
            raise BadInput(f"{name} gives an empty dataset", _FORM)
        self.labelled = self.batch([0]).labels is not None
        self.notes = (f"as {name} gives it",)

    def batch(self, indices: Sequence[int], change: Change | None = None) -> Batch:
        """See `Examples`; what the loader gives is not changed."""
        made = _theirs(self._name, lambda: self._collate([self._dataset[i] for i in indices]))
        inputs, labels = paired(made, self._like, self._name)
        return Batch(inputs, labels)


class Held:
    """`Examples` read from batches that come only in their own order; kept in memory."""

    classes: tuple[str, ...] = ()
    pictures = False

    def __init__(self, pairs: Sequence[Pair], name: str) -> None:
        self._rows: list[Pair] = [row for pair in pairs for row in _rows(pair)]
        self.count, self._name = len(self._rows), name
        kinds = {labels is not None for _, labels in pairs}
        if len(kinds) != 1:
            raise BadInput(
                f"{name} gives " + ("no batch" if not kinds else "labels with some batches only"),
                _FORM,
            )
        self.labelled = kinds.pop()
        self.notes = (f"as {name} gives it",)

    def batch(self, indices: Sequence[int], change: Change | None = None) -> Batch:
        """See `Examples`. BadInput where examples of several batches are not of one shape."""
        rows = [self._rows[i] for i in indices]
        parts = zip(*(inputs.tensors for inputs, _ in rows), strict=True)
        try:
            joined = iter([torch.cat(part) for part in parts])
            labels = torch.cat([y for _, y in rows if y is not None]) if self.labelled else None
        except RuntimeError:
            raise BadInput(
                f"{self._name} gives examples of several shapes, which make no batch",
                "give a DataLoader of a dataset with __len__, whose collate_fn pads them",
            ) from None
        return Batch(rows[0][0].map(lambda _: next(joined)), labels)


def open_loader(path: Path, function: str, like: Inputs, options: DataOptions) -> Collated | Held:
    """The examples that `function` of a Python file gives; the file is run."""
    name = f"{path}:{function}"
    if not path.is_file():
        raise BadInput(f"{path}: no such file", _FORM)
    made = getattr(import_file(path), function, None)
    if not callable(made):
        raise BadInput(f"{path} has no function {function!r}", _FORM)
    return open_given(_theirs(name, made), like, options, name)


def open_given(given: Any, like: Inputs, options: DataOptions, name: str) -> Collated | Held:
    """The examples of a DataLoader, a dataset or an iterable of batches. BadInput for anything else."""
    if isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset):
        return Collated(given.dataset, given.collate_fn, like, name)
    if isinstance(given, Dataset) and hasattr(given, "__len__"):
        return Collated(given, default_collate, like, name)
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Tensor | dict):
        raise BadInput(f"{name} gives {type(given).__name__}, not batches", _FORM)
    return Held(_theirs(name, lambda: _taken(given, like, options, name)), name)


def _taken(given: Iterable[Any], like: Inputs, options: DataOptions, name: str) -> list[Pair]:
    """As many batches as hold the samples asked for: what comes first, as the loader has an order of its own."""
    pairs, count = [], 0
    for one in given:
        pair = paired(one, like, name)
        pairs.append(pair)
        count += pair[0].batch
        if options.samples is not None and count >= options.samples:
            break
    return pairs


def _rows(pair: Pair) -> list[Pair]:
    inputs, labels = pair
    count = inputs.batch
    if labels is not None and len(labels) != count:
        raise BadInput(f"a batch has {count} examples and {len(labels)} labels", _FORM)
    each = itertools.repeat(None) if labels is None else iter(labels.split(1))
    return [(inputs.map(lambda t, i=i: t[i : i + 1]), next(each)) for i in range(count)]


def _theirs(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BadInput:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise BadInput(f"{name} failed: {said}", "the error is the loader's own") from error
