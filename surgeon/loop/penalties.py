"""What training adds to its loss so that channels can go: pure functions of a group's weights, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from surgeon.errors import BadInput

_LEAST = 1e-24  # below this square a norm has no slope


@dataclass(frozen=True, eq=False)
class Pressed:
    """A group of channels in training; every tensor is [channels].

    squares: sum of a channel's squared weights over all layers of its group, with gradients. elements: how many those are.
    scales: sum of the absolute scales of the norms that it goes through, None where there are none. chosen: whether it goes
    with the next cut. calls: how often the penalty was asked since the last cut, from 1 on.
    """

    squares: Tensor
    elements: Tensor
    scales: Tensor | None
    chosen: Tensor
    calls: int


Penalty = Callable[[Pressed], Tensor]  # one number; times the strength it is added to the loss


@dataclass(frozen=True)
class Known:
    """A penalty. chooses: whether it presses what the next cut takes, which is then chosen beforehand."""

    function: Penalty
    paper: str = ""
    chooses: bool = False


PENALTIES: dict[str, Known] = {}


def penalty(name: str, paper: str = "", *, chooses: bool = False) -> Callable[[Penalty], Penalty]:
    """Register a penalty. BadInput where the name is taken."""

    def register(function: Penalty) -> Penalty:
        if name in PENALTIES:
            raise BadInput(f"there is a penalty '{name}' already", "give yours another name")
        PENALTIES[name] = Known(function, paper, chooses)
        return function

    return register


def known(given: str | Penalty) -> Known:
    """A penalty by its name, or of the user's own."""
    if not isinstance(given, str):
        if not callable(given):
            raise BadInput(f"a {type(given).__name__} is no penalty", "give f(pressed) -> a number")
        return Known(given)
    if given not in PENALTIES:
        close = difflib.get_close_matches(given, PENALTIES, 1, 0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise BadInput(f"no penalty '{given}'", f"{hint}there are {', '.join(PENALTIES)}")
    return PENALTIES[given]


@penalty(
    "group-lasso",
    "Wen et al. 2016, arXiv 1608.03665; over coupled layers Fang et al. 2023, arXiv 2301.12900",
)
def group_lasso(pressed: Pressed) -> Tensor:
    """Sum over channels of sqrt(elements) x the Euclidean norm of all its weights: whole channels become zero."""
    norms = pressed.squares.clamp_min(_LEAST).sqrt()
    return (pressed.elements.sqrt() * norms).sum()


@penalty("slimming", "Liu et al. 2017, arXiv 1708.06519")
def slimming(pressed: Pressed) -> Tensor:
    """Sum of the absolute scales of batch norms (or others) that the channels go through."""
    if pressed.scales is None:
        return pressed.squares.new_zeros(())
    return pressed.scales.sum()


@penalty("growing", "Wang et al. 2021, arXiv 2012.09243", chooses=True)
def growing(pressed: Pressed) -> Tensor:
    """Half the squared norm of the channels that go next, ever stronger: times the calls since the last cut."""
    return pressed.calls * (pressed.squares * pressed.chosen).sum() / 2
