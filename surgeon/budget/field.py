"""Who competes: the groups that a request may cut, in units that lose equally many channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.address import by_itself, cuttable, matching
from surgeon.budget.align import block_of_this_cpu, step_of
from surgeon.budget.request import Request
from surgeon.couple import Coupling
from surgeon.errors import BadInput, OutOfReach
from surgeon.grouping import Group
from surgeon.plan import Left

Ids = NDArray[np.int64]
Array = NDArray[np.float64]
FLOOR = 0.05  # of a group's channels always stay when groups compete, and one at the least


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups of one size that lose equally many channels; most units are a single group.

    `step`: channels kept are a multiple of it. `ratio`: the user's own for these groups.
    """

    groups: tuple[Group, ...]
    scores: tuple[Array, ...]
    step: int
    ratio: float | None

    @property
    def size(self) -> int:
        """Channels of each group."""
        return self.groups[0].size

    @property
    def count(self) -> int:
        """Channels of all of them."""
        return self.size * len(self.groups)

    @cached_property
    def order(self) -> tuple[Ids, ...]:
        """Channels of each group, least important first."""
        return tuple(np.argsort(s, kind="stable") for s in self.scores)

    @cached_property
    def ranked(self) -> Array:
        """What losing one more channel of each group costs, relative to the group's mean; the floor left out."""
        each = [_relative(s[o]) for s, o in zip(self.scores, self.order, strict=True)]
        free = self.size - max(int(np.ceil(self.size * FLOOR)), 1)
        return np.mean(each, axis=0)[:free] if len(each) > 1 else each[0][:free]

    def channels(self, count: int) -> Iterator[tuple[Group, Ids]]:
        """The `count` least important channels of each group."""
        for group, order in zip(self.groups, self.order, strict=True):
            yield group, order[:count]


@dataclass(frozen=True)
class Field:
    """The units that compete, what was left alone and why, and what there is to say about it."""

    units: tuple[Unit, ...]
    scope: str
    left: tuple[Left, ...]
    notes: tuple[str, ...]


def _relative(ranked: Array) -> Array:
    finite = ranked[np.isfinite(ranked)]
    mean = float(np.abs(finite).mean()) if len(finite) else 1.0
    return ranked / (mean or 1.0)


def field_of(
    coupling: Coupling,
    scores: Mapping[str, Array],
    request: Request,
    by_hand: Collection[str],
) -> Field:
    """The field of a request. by_hand: names of groups that are cut at given positions, and do not compete."""
    groups = coupling.groups
    left = {g.name: g.why_not for g in groups if g.why_not is not None}
    for glob in request.ignore:
        for g in matching(groups, glob):
            left.setdefault(g.name, f"ignored ({glob})")
    other_kind = f"not among the kinds to cut (--cut {','.join(request.cut)})"
    for g in groups:
        if request.cut and g.kind not in request.cut:
            left.setdefault(g.name, other_kind)
    ratios = _ratios(groups, request, {n for n, why in left.items() if why == other_kind})
    free = [g for g in groups if g.name not in left and g.name not in by_hand]
    left |= _other_factors(free, request)
    left |= _held_back(groups, left, request)
    free = [g for g in free if g.name not in left]
    round_to = block_of_this_cpu() if request.round_to == "auto" else int(request.round_to or 1)
    sets = [*_alike(free, ratios, request), *coupling.ties]
    units = tuple(
        Unit(
            tuple(unit),
            tuple(scores[g.name] for g in unit),
            lcm(*(step_of(g, round_to) for g in unit)),
            ratios.get(unit[0].name),
        )
        for unit in _joined(free, sets, ratios)
    )
    out = tuple(Left(g.name, g.size, left[g.name], g.kind) for g in groups if g.name in left)
    return Field(units, request.scope, out, tuple(_said(units, coupling.ties)))


def _ratios(
    groups: Sequence[Group], request: Request, other_kind: Collection[str]
) -> dict[str, float]:
    """The user's own ratio of a group, by its name; the last glob that names it holds."""
    out: dict[str, float] = {}
    for glob, ratio in request.ratio_for.items():
        found = [g.name for g in cuttable(groups, glob) if g.name not in other_kind]
        if not found:
            raise OutOfReach(
                f"'{glob}' cannot be cut: not among the kinds to cut (--cut {','.join(request.cut)})",
                "name its kind in --cut too",
            )
        out |= dict.fromkeys(found, ratio)
    return out


def _other_factors(groups: Sequence[Group], request: Request) -> dict[str, str]:
    """Of the factors of a product (heads x head_dim) the one with more channels is cut; why the others stay.

    Cutting both at one ratio would remove more of the layer than was asked. A factor that the user
    names, by itself or by its kind, is cut besides.
    """
    named = {g.name for g in groups if by_itself(g, request.ratio_for)}
    taken: dict[str, Group] = {}
    left: dict[str, str] = {}
    for group in sorted(groups, key=lambda g: -g.size):
        if group.name in named:
            continue
        rivals = [taken[p] for p in group.partners if p in taken]
        if request.cut:
            rivals = [r for r in rivals if r.kind == group.kind]
        if rivals:
            how = "name it in --ratio-for to cut it too"
            left[group.name] = (
                f"the other factor of a product whose factor {rivals[0].name} is cut; {how}"
            )
        else:
            taken[group.name] = group
    return left


def _held_back(
    groups: Sequence[Group], left: Mapping[str, str], request: Request
) -> dict[str, str]:
    """Groups that must stay whole because one that they must equal does (--equal)."""
    whole = {_make(g): g.name for g in groups if g.name in left}
    return {
        g.name: f"must keep as many channels as {whole[_make(g)]}, which stays (--equal {g.kind})"
        for g in groups
        if g.name not in left and g.kind in request.equal and _make(g) in whole
    }


def _make(group: Group) -> tuple[str, int, int]:
    return group.kind, group.key, group.size


def _alike(
    free: Sequence[Group], ratios: Mapping[str, float], request: Request
) -> list[frozenset[str]]:
    """Sets of groups that --equal keeps equal: of one kind, one make and one size."""
    sets: dict[tuple[str, int, int], list[str]] = {}
    for g in free:
        if g.kind in request.equal:
            sets.setdefault(_make(g), []).append(g.name)
    for names in sets.values():
        if len({ratios.get(n) for n in names}) > 1:
            odd = next(n for n in names if ratios.get(n) != ratios.get(names[0]))
            raise BadInput(
                f"--equal keeps {names[0]} and {odd} equal, and --ratio-for does not",
                "name all of them in --ratio-for, or leave out --equal",
            )
    return [frozenset(names) for names in sets.values()]


def _joined(
    free: Sequence[Group], sets: Sequence[frozenset[str]], ratios: Mapping[str, float]
) -> list[list[Group]]:
    """The free groups in units, in their order: sets that share a group are one unit."""
    place = {g.name: k for k, g in enumerate(free)}
    unit = list(range(len(free)))
    for names in sets:
        here = sorted(place[n] for n in names if n in place)
        for k in here[1:]:
            first = here[0]
            alike = free[k].size == free[first].size
            if alike and ratios.get(free[k].name) == ratios.get(free[first].name):
                old, new = sorted((unit[k], unit[first]), reverse=True)
                unit = [new if u == old else u for u in unit]
    out: dict[int, list[Group]] = {}
    for k, g in enumerate(free):
        out.setdefault(unit[k], []).append(g)
    return list(out.values())


def _said(units: Sequence[Unit], ties: Sequence[frozenset[str]]) -> Iterator[str]:
    small = [u.groups[0].name for u in units if u.size < u.step]
    if small:
        yield f"narrower than round_to, cut by the plain ratio: {', '.join(small)}"
    names = [[g.name for g in u.groups] for u in units]
    tied = [n for n in names if any(len(tie & set(n)) > 1 for tie in ties)]
    if tied:
        more = f" and {len(tied) - 3} more" if len(tied) > 3 else ""
        sets = "; ".join(" = ".join(n[:4]) for n in tied[:3])
        yield f"equal in number, since the forward splits them evenly: {sets}{more}"
