"""Which rows of layers' results are looked at: the same ones however the examples are cut into calls."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024  # rows whose data are looked at together


class Draw:
    """About `rows` of every layer, over all examples: of each example equally many, by chance."""

    def __init__(self, rows: int, examples: int, seed: int) -> None:
        self._each = -(-rows // max(examples, 1))
        self._seed = seed
        self._generators: dict[int, torch.Generator] = {}

    def rows(self, layer: int, total: int, count: int) -> Tensor | None:
        """Positions among the `total` rows that a layer has in a call of `count` examples, one example after
        another; None where examples have no equal share of them. Calls come in order."""
        if total % count:
            return None
        each = total // count
        if layer not in self._generators:
            self._generators[layer] = torch.Generator().manual_seed(self._seed + layer)
        by_chance = torch.rand(count, each, generator=self._generators[layer])
        at = by_chance.topk(min(each, self._each)).indices
        return (torch.arange(count)[:, None] * each + at).flatten()
