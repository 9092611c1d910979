"""One dict of criteria: name -> what it computes, the paper it is from, and what it must be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgeon.grouping import Group

# [channels]; a masked array [members, channels], to be reduced; None where it says nothing of a group
Scores = Any
Criterion = Callable[
    [Group, Any], Scores
]  # the second: Evidence, or the model where it is so named


@dataclass(frozen=True)
class Known:
    """A registered criterion. `reads`: what of the data it needs, '' for none."""

    function: Criterion
    reads: str = ""
    paper: str = ""
    normalise: str | None = None  # where the user says nothing

    @property
    def about(self) -> str:
        """The first sentence of its docstring."""
        return " ".join((self.function.__doc__ or "").split("\n\n")[0].split())


CRITERIA: dict[str, Known] = {}


def criterion(
    name: str, *, reads: str = "", paper: str = "", normalise: str | None = None
) -> Callable[[Criterion], Criterion]:
    """Register `f(group, evidence) -> scores`; a name can be taken once.

    scores: [channels], the lowest go first; or a masked array [members, channels], masked where a member
    does not hold a channel, which is then reduced as the user asks. None: the group stays whole.
    A function whose second parameter is named `model` is given the model instead.
    """

    def register(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"criterion {name} exists already")
        CRITERIA[name] = Known(function, reads, paper, normalise)
        return function

    return register
