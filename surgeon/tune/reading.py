"""This process's part of each batch, read by torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from surgeon.data.samples import Batch, Change, Examples


class _Parts(Dataset):
    def __init__(self, examples: Examples, change: Change | None) -> None:
        self._examples, self._change = examples, change

    def __getitem__(self, part: Any) -> Batch:
        return self._examples.batch(part, self._change)


def read(
    examples: Examples,
    batches: Sequence[Sequence[int]],
    place: tuple[int, int],
    change: Change | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """The batches, of each every `processes`-th example from `rank` on; place is (rank, processes)."""
    rank, processes = place
    mine = [part[rank::processes] for part in batches]
    loader = DataLoader(
        _Parts(examples, change),
        batch_size=None,
        sampler=[part for part in mine if part],  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator().manual_seed(0),  # else it draws from the network's own numbers
    )
    return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch
