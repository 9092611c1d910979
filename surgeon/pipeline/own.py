"""Staying of one's own class: how much may be left whole for it, where only a program could cut all that is planned."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.budget import Request
from surgeon.budget.address import matching, positions
from surgeon.budget.cost import Cost
from surgeon.couple import Coupling
from surgeon.cut import Cut
from surgeon.grouping import Group

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
_WORTH = 0.75  # of the parameters that the whole plan removes
_ROUNDS = 7  # plans: where more than that does not follow, there is little sense in it


@dataclass(frozen=True, eq=False)
class Own:
    """What a network may leave whole so that its own forward follows the cut. always: whatever it takes. `named`: groups that
    go in any case, as they were asked for by name, and `kinds` whether kinds were. `whole`: the classes that go by the plan that came first, where another one is made by
    now; `rounds`: how many were. `said`: whether its config is to say what goes, if it has one; `first`: what went by a plan that it did not say,
    and `done`: what such a plan keeps, and its cut, where that is what is wanted after all."""

    always: bool
    named: frozenset[str]
    kinds: bool = False
    whole: Mask | None = None
    rounds: int = 0
    said: bool = False
    first: Mask | None = None
    done: tuple[Mapping[str, Any], Cut] | None = None

    @classmethod
    def of(cls, request: Request, coupling: Coupling, gone: Collection[str]) -> Own | None:
        """None where a program is asked for. gone: groups that have lost channels by now."""
        if request.program is True:
            return None
        by_hand = positions(coupling, coupling.groups, request.remove)
        named = {g.name for glob in request.ratio_for for g in matching(coupling.groups, glob)}
        # no search for a limit, a first cut, and layers that do not compete, which no config says
        plain = request.scope == "local" and not (request.measured or gone)
        named = frozenset({*named, *by_hand, *gone})
        return cls(request.program is False, named, bool(request.cut), said=plain)

    def without(self, coupling: Coupling, removed: Mask, groups: Sequence[Group]) -> Own | None:
        """The next round, once these groups stay as well. removed: what the plan takes that was not followed. None where one
        of them was asked for, or more than a quarter of the parameters that would go stays for it."""
        if not self.named.isdisjoint(group.name for group in groups):
            return None
        whole = removed if self.whole is None else self.whole
        stay = {group.name for group in groups}
        goes = [g.atoms[removed[g.atoms]] for g in coupling.groups if g.name not in stay]
        goes += _instead(coupling, removed, groups)
        left = coupling.removed(np.concatenate([np.zeros(0, np.int64), *goes]))
        enough = self.rounds < _ROUNDS and as_much(coupling, left, whole)
        return replace(self, whole=whole, rounds=self.rounds + 1) if self.always or enough else None


def _instead(coupling: Coupling, removed: Mask, groups: Sequence[Group]) -> Iterator[Ids]:
    """What the next plan takes of the other factor of products (heads) where these groups are the one that was cut (head_dim)."""
    stay = {group.name for group in groups}
    by_name = {group.name: group for group in coupling.groups}
    for group in groups:
        share = removed[group.atoms].mean()
        for other in (by_name[name] for name in group.partners if name not in stay):
            if other.why_not is None and not removed[other.atoms].any():
                yield other.atoms[: int(share * other.size)]


def as_much(coupling: Coupling, removed: Mask, first: Mask | None) -> bool:
    """Whether about as many parameters go with these classes as with those of a first plan, if there is one."""
    return first is None or _gone(coupling, removed) >= _WORTH * _gone(coupling, first)


def _gone(coupling: Coupling, removed: Mask) -> int:
    """How many parameters go with these classes."""
    cost = Cost(coupling)
    return cost.total(np.zeros_like(removed)).params - cost.total(removed).params
