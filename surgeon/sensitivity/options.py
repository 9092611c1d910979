"""What is asked of a sensitivity run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from surgeon.errors import BadInput

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_FORM = "shares of channels removed, each above 0 and below 1: (0.1, 0.5, 0.9)"


@dataclass(frozen=True)
class Sensing:
    """Options of `sensitivity`.

    ratios: shares of a group's channels that are removed. criterion: in which order they go; None: those
    first that the consumers' inputs are best rebuilt without, as `shrink` with data chooses. fit: whether
    layers that take the channels are fitted anew for each measurement, as `shrink` with data does after a
    cut. labelled: each batch is a pair (inputs, labels). seed: of rows of data, and a criterion's.
    """

    ratios: tuple[float, ...] = RATIOS
    criterion: Any = None
    fit: bool = True
    labelled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ratios:
            raise BadInput("there are no ratios to measure", _FORM)
        for ratio in self.ratios:
            number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
            if not (number and math.isfinite(ratio) and 0 < ratio < 1):
                raise BadInput(f"ratio {ratio!r} cannot be measured", _FORM)
        object.__setattr__(self, "ratios", tuple(sorted(set(self.ratios))))

    def as_dict(self) -> dict[str, Any]:
        """What decides the numbers, for the file."""
        name = self.criterion
        if callable(name):
            name = getattr(name, "__name__", type(name).__name__)
        order = "reconstruction" if name is None else name
        return {"ratios": list(self.ratios), "order": order, "fit": self.fit, "seed": self.seed}


def gone_at(size: int, ratio: float) -> int:
    """Channels of a group of this size that a ratio removes: at least one, and one stays."""
    return min(max(round(size * ratio), 1), size - 1)
