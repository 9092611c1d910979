"""How much of a target is reached at each step: pure functions of the step, all from 0 to the whole.

`ratio_at(step, steps)` is 0 at step 0 and 1 at step `steps`; what was asked times it is the ratio of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from surgeon.errors import BadInput

Schedule = Callable[[int, int], float]
_SLOPE = 14.0  # of one-cycle's logistic curve (Hubens et al. 2022, arXiv 2107.02086)
_OFFSET = 5.0


def linear(step: int, steps: int) -> float:
    """Equal parts."""
    return step / steps


def exponential(step: int, steps: int) -> float:
    """What stays shrinks by the same factor each step, down to 1 %, stretched so that the end is 1."""
    return (1 - 0.01 ** (step / steps)) / (1 - 0.01)


def polynomial(step: int, steps: int) -> float:
    """Automated gradual pruning: 1 - (1 - t)^3 (Zhu and Gupta 2017, arXiv 1710.01878)."""
    return 1 - (1 - step / steps) ** 3


def one_cycle(step: int, steps: int) -> float:
    """Slow, fast, slow: a logistic curve (Hubens et al. 2022, arXiv 2107.02086)."""

    def curve(t: float) -> float:
        return 1 / (1 + math.exp(-_SLOPE * t + _OFFSET))

    return (curve(step / steps) - curve(0)) / (curve(1) - curve(0))


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "exponential": exponential,
    "polynomial": polynomial,
    "one-cycle": one_cycle,
}


def ratio_at(name: str, step: int, steps: int) -> float:
    """The share of the target that is reached after `step` of `steps`, in [0, 1].

    Raises BadInput for a name that is none, or a step outside 0..steps.
    """
    if name not in SCHEDULES:
        raise BadInput(f"no schedule '{name}'", f"there are {', '.join(SCHEDULES)}")
    if steps < 1 or not 0 <= step <= steps:
        raise BadInput(
            f"step {step} of {steps} does not exist", "steps are counted from 0 to --steps"
        )
    return SCHEDULES[name](step, steps)
