"""Who competes: the groups that a request may cut, in units that lose equally many channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.address import by_itself, cuttable, matching, positions
from surgeon.budget.align import Grid, Near, elements, grid_of, keep_count, together
from surgeon.budget.alike import equal_sets
from surgeon.budget.request import Request
from surgeon.couple import Coupling
from surgeon.errors import BadInput, OutOfReach
from surgeon.grouping import Group
from surgeon.plan import Left

Ids = NDArray[np.int64]
Array = NDArray[np.float64]
_BY_POSITION = (
    "its forward makes numbers by position there (frequencies), which only a program can hold"
)
_EVENLY = "equal in number, since the forward splits them evenly"
_TOGETHER = "the same share goes, so that its own forward and its config follow"
FLOOR = 0.05  # of a group's channels always stay when groups compete, and one at the least


@dataclass(frozen=True, eq=False)
class Unit:
    """Groups that lose the same share, each in steps of its own; most units are a single group.

    A group of twice the size (v's head_dim beside q's rotated pairs) loses two channels for one.
    `grid`: what may be kept; `near`: which counts a ratio is rounded to, where that moves it little. `ratio`: the user's own for these groups. `gone`: channels of the
    smallest group that an earlier step removed.
    """

    groups: tuple[Group, ...]
    scores: tuple[Array, ...]
    grid: Grid
    ratio: float | None
    relative: bool = True  # scores of different groups are compared relative to their means
    gone: int = 0
    near: Near | None = None

    @cached_property
    def size(self) -> int:
        """Channels of the smallest group."""
        return min(g.size for g in self.groups)

    @property
    def step(self) -> int:
        """What is kept is a multiple of it, or less than it."""
        return self.grid.block

    def kept(self, share: float) -> int:
        """Channels kept of the smallest group when this share goes."""
        if self.near is not None:
            return self.near.kept(self.size, share)
        return keep_count(self.size, share, *self.grid)

    @cached_property
    def weight(self) -> int:
        """Channels that go over all groups when one of the smallest goes."""
        return sum(g.size for g in self.groups) // self.size

    @cached_property
    def order(self) -> tuple[Ids, ...]:
        """Channels of each group, least important first."""
        return tuple(np.argsort(s, kind="stable") for s in self.scores)

    @cached_property
    def ranked(self) -> Array:
        """What losing one more channel of each group costs; the floor left out."""
        both = zip(self.scores, self.order, strict=True)
        ranked = (_relative(s[o]) if self.relative else s[o] for s, o in both)
        each = [r.reshape(self.size, -1).mean(1) for r in ranked]
        free = self.size - max(int(np.ceil(self.size * FLOOR)), 1)
        return np.mean(each, axis=0)[:free]

    def channels(self, count: int) -> Iterator[tuple[Group, Ids]]:
        """The least important channels of each group, `count` of the smallest one."""
        for group, order in zip(self.groups, self.order, strict=True):
            yield group, order[: count * (group.size // self.size)]


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


def competing(coupling: Coupling, scores: Mapping[str, Array], request: Request) -> set[str]:
    """Names of the groups of which the request lets the scores choose channels."""
    field = field_of(
        coupling, scores, request, positions(coupling, coupling.groups, request.remove)
    )
    return {g.name for unit in field.units for g in unit.groups}


def field_of(
    coupling: Coupling,
    scores: Mapping[str, Array],
    request: Request,
    by_hand: Collection[str],
    gone: Mapping[str, Ids] | None = None,
) -> Field:
    """The field of a request. by_hand: names of groups that are cut at given positions, and do not compete.
    gone: channels that earlier steps removed."""
    groups = coupling.groups
    left = {g.name: g.why_not for g in groups if g.why_not is not None}
    silent = {g.name for g in groups if g.name not in left and g.name not in scores}
    left |= dict.fromkeys(silent - set(by_hand), "the criterion says nothing of these channels")
    for glob in request.ignore:
        for g in matching(groups, glob):
            left.setdefault(g.name, f"ignored ({glob})")
    other_kind = f"not among the kinds to cut (--cut {','.join(request.cut)})"
    for g in groups:
        if request.cut and g.kind not in request.cut:
            left.setdefault(g.name, other_kind)
    ratios = _ratios(groups, request, {n for n, why in left.items() if why == other_kind})
    free = [g for g in groups if g.name not in left and g.name not in by_hand]
    placed = _placed(free, request)
    left |= placed
    free = [g for g in free if g.name not in left]
    left |= _other_factors(free, request)
    alike = equal_sets(groups, request.equal)
    left |= _held_back(alike, left)
    free = [g for g in free if g.name not in left]
    _agree(free, alike, ratios)
    widths, shapes = request.widths, {n: v.shape for n, v in coupling.graph.state.items()}
    units = tuple(
        Unit(
            tuple(unit),
            tuple(scores[g.name] for g in unit),
            together((grid_of(g, widths, shapes), g.size // _least(unit)) for g in unit),
            ratios.get(unit[0].name),
            request.normalise is None,
            max(len((gone or {}).get(g.name, ())) * _least(unit) // g.size for g in unit),
            request.near if any(elements(g) == 1 for g in unit) else None,
        )
        for unit in _joined(free, [*alike, *coupling.ties, *coupling.joined], ratios)
    )
    out = tuple(Left(g.name, g.size, left[g.name], g.kind) for g in groups if g.name in left)
    return Field(units, request.scope, out, (*_whole(placed), *_said(units, coupling)))


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


def _placed(groups: Sequence[Group], request: Request) -> dict[str, str]:
    """Groups that only a program could follow, as the forward makes a number for each of their positions, and why they
    stay: a program is bound to the sizes it was captured with, which nobody asked for who names none of them, nor a program."""
    if request.program is True:
        return {}
    named = {g.name for glob in request.ratio_for for g in matching(groups, glob)}
    why = f"{_BY_POSITION}: name it in --ratio-for to cut it"
    return {g.name: why for g in groups if g.placed and g.name not in named}


def _whole(placed: Collection[str]) -> Iterator[str]:
    """What to say of them."""
    if placed:
        more = f" and {len(placed) - 3} more" if len(placed) > 3 else ""
        names = ", ".join([*placed][:3])
        yield f"{_BY_POSITION}, so this stays whole: {names}{more}; as a program it can be cut, too (--program)"


def _held_back(sets: Sequence[frozenset[str]], left: Mapping[str, str]) -> dict[str, str]:
    """Groups that must stay whole because one that they must equal does (--equal)."""
    found: dict[str, str] = {}
    while True:
        new: dict[str, str] = {}
        for names in sets:
            whole = next((n for n in sorted(names) if n in left or n in found), None)
            rest = names - left.keys() - found.keys()
            why = f"must keep as many channels as {whole}, which stays (--equal)"
            new |= dict.fromkeys(rest if whole else (), why)
        if not new:
            return found
        found |= new


def _agree(
    free: Sequence[Group], sets: Sequence[frozenset[str]], ratios: Mapping[str, float]
) -> None:
    """BadInput where --ratio-for says something else of groups that --equal keeps equal."""
    here = [g.name for g in free]
    for names in sets:
        together = [n for n in here if n in names]
        odd = [n for n in together if ratios.get(n) != ratios.get(together[0])]
        if odd:
            raise BadInput(
                f"--equal keeps {together[0]} and {odd[0]} equal, and --ratio-for does not",
                "name all of them in --ratio-for, or leave out --equal",
            )


def _joined(
    free: Sequence[Group], sets: Sequence[frozenset[str]], ratios: Mapping[str, float]
) -> list[list[Group]]:
    """The free groups in units, in their order: sets that share a group are one unit."""
    units = {g.name: [g] for g in free}
    for names in sets:
        first, *others = [g.name for g in free if g.name in names] or [""]
        for other in others:
            a, b = units[first], units[other]
            both = a + b
            least = min(g.size for g in both)
            nested = all(g.size % least == 0 for g in both)
            if a is not b and nested and ratios.get(first) == ratios.get(other):
                units |= dict.fromkeys((g.name for g in both), both)
    return list({id(unit): unit for unit in units.values()}.values())


def _least(unit: Sequence[Group]) -> int:
    return min(g.size for g in unit)


def _said(units: Sequence[Unit], coupling: Coupling) -> Iterator[str]:
    small = [u.groups[0].name for u in units if u.size < u.grid.fine]
    if small:
        yield f"narrower than round_to, cut by the plain ratio: {', '.join(small)}"
    for why, sets in ((_EVENLY, coupling.ties), (_TOGETHER, coupling.joined)):
        names = [[g.name for g in u.groups] for u in units]
        tied = [n for n in names if any(len(tie & set(n)) > 1 for tie in sets)]
        if tied:
            more = f" and {len(tied) - 3} more" if len(tied) > 3 else ""
            yield f"{why}: {'; '.join(' = '.join(n[:4]) for n in tied[:3])}{more}"
