"""Scores + request -> which channels of which group go. The scopes, and the search for a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.address import cuttable, matching, positions
from surgeon.budget.align import block_of_this_cpu, keep_count, step_of
from surgeon.budget.cost import Cost
from surgeon.budget.request import Request
from surgeon.couple import Coupling
from surgeon.errors import OutOfReach
from surgeon.grouping import Group
from surgeon.plan import Left

if TYPE_CHECKING:
    from surgeon.budget.cost import Total

Ids = NDArray[np.int64]
Array = NDArray[np.float64]
FLOOR = 0.05  # of a group's channels always stay when groups compete, and one at the least


@dataclass(frozen=True)
class Choice:
    """Channels that go, by group name, and the groups that were left alone with the reason."""

    removed: Mapping[str, Ids]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Field:
    """The groups that compete, their channels from least to most important."""

    groups: tuple[Group, ...]
    order: Mapping[str, Ids]
    scores: Mapping[str, Array]
    step: Mapping[str, int]
    ratio_for: Mapping[str, float]
    scope: str


def choose(coupling: Coupling, scores: Mapping[str, Array], request: Request) -> Choice:
    """Which channels go. OutOfReach where a limit cannot be met or nothing can be cut."""
    by_hand = positions(coupling, coupling.groups, request.remove)
    for name, channels in by_hand.items():
        if len(channels) == coupling.group(name).size:
            raise OutOfReach(
                f"--remove takes all {len(channels)} channels of {name}: one must stay",
                "leave out at least one position",
            )
    field, left, notes = _field(coupling, scores, request, by_hand)
    counts: dict[str, int] = {}
    if request.limits:
        counts = _reach(coupling, field, request, by_hand)
    elif request.ratio is not None or request.ratio_for:
        counts = _counts(field, request.ratio or 0.0)
    removed = {n: np.sort(field.order[n][:k]) for n, k in counts.items() if k}
    removed |= by_hand
    if not removed:
        _nothing(field, request, left)
    return Choice(removed, tuple(left), tuple(notes))


def _nothing(field: _Field, request: Request, left: Sequence[Left]) -> None:
    if request.ratio == 0:
        return  # a ratio of nothing is a plan of nothing
    if field.groups:
        met = "the limits are met already" if request.limits else "that is no channel of any group"
        raise OutOfReach(f"nothing is removed: {met}", "ask for more")
    why = "; ".join(f"{x.name}: {x.why}" for x in left[:4]) or "no layer has channels"
    raise OutOfReach(
        f"nothing can be cut ({why})", "surgeon inspect shows every group and its reason"
    )


def _field(
    coupling: Coupling,
    scores: Mapping[str, Array],
    request: Request,
    by_hand: Mapping[str, Ids],
) -> tuple[_Field, list[Left], list[str]]:
    left = [Left(g.name, g.size, g.why_not) for g in coupling.groups if g.why_not is not None]
    free = [g for g in coupling.groups if g.why_not is None]
    ignored = {g.name: p for p in request.ignore for g in matching(coupling.groups, p)}
    left += [
        Left(g.name, g.size, f"ignored ({ignored[g.name]})") for g in free if g.name in ignored
    ]
    free = [g for g in free if g.name not in ignored and g.name not in by_hand]
    ratio_for = {
        g.name: r for p, r in request.ratio_for.items() for g in cuttable(coupling.groups, p)
    }
    free, other = _one_factor_each(free, set(request.ratio_for))
    left += other
    round_to = block_of_this_cpu() if request.round_to == "auto" else int(request.round_to or 1)
    step = {g.name: step_of(g, round_to) for g in free}
    small = [g.name for g in free if g.size < step[g.name]]
    notes = [f"narrower than round_to, cut by the plain ratio: {', '.join(small)}"] if small else []
    order = {g.name: np.argsort(scores[g.name], kind="stable") for g in free}
    return _Field(tuple(free), order, scores, step, ratio_for, request.scope), left, notes


def _one_factor_each(groups: Sequence[Group], named: set[str]) -> tuple[list[Group], list[Left]]:
    """Of the factors of a product (conv groups x channels in each) the one with more channels is cut.

    Cutting both at one ratio would remove more of the layer than was asked. A factor that the
    user names by itself is cut as well.
    """
    taken: dict[str, Group] = {}
    left: list[Left] = []
    for group in sorted(groups, key=lambda g: (g.name not in named, -g.size)):
        rival = next((p for p in group.partners if p in taken), None)
        if rival is None or group.name in named:
            taken[group.name] = group
        else:
            why = f"the other factor of a product whose factor {rival} is cut; name it in --ratio-for to cut it too"
            left.append(Left(group.name, group.size, why))
    return [g for g in groups if g.name in taken], left


def _counts(field: _Field, ratio: float) -> dict[str, int]:
    """Channels to remove of each group at this ratio, under the request's scope."""
    named = [g for g in field.groups if g.name in field.ratio_for]
    rest = [g for g in field.groups if g.name not in field.ratio_for]
    out = {
        g.name: g.size - keep_count(g.size, field.ratio_for[g.name], field.step[g.name])
        for g in named
    }
    if field.scope == "local":
        return out | {g.name: g.size - keep_count(g.size, ratio, field.step[g.name]) for g in rest}
    pools: dict[int, list[Group]] = {}
    for g in rest:
        pools.setdefault(g.key if field.scope == "isomorphic" else 0, []).append(g)
    for pool in pools.values():
        out |= _compete(field, pool, ratio)
    return out


def _compete(field: _Field, pool: Sequence[Group], ratio: float) -> dict[str, int]:
    """The least important channels of a whole pool go; scores are relative to their group's mean."""
    keys, owner = [], []
    for k, g in enumerate(pool):
        ranked = field.scores[g.name][field.order[g.name]]
        finite = ranked[np.isfinite(ranked)]
        mean = float(np.abs(finite).mean()) if len(finite) else 1.0
        free = g.size - max(int(np.ceil(g.size * FLOOR)), 1)
        keys.append((ranked / (mean or 1.0))[:free])
        owner.append(np.full(free, k))
    total = sum(g.size for g in pool)
    goes = np.argsort(np.concatenate(keys), kind="stable")[: int(total * ratio + 0.5)]
    counts = np.bincount(np.concatenate(owner)[goes], minlength=len(pool))
    return {
        g.name: g.size - keep_count(g.size, int(n) / g.size, field.step[g.name])
        for g, n in zip(pool, counts, strict=True)
    }


def _reach(
    coupling: Coupling, field: _Field, request: Request, by_hand: Mapping[str, Ids]
) -> dict[str, int]:
    """The least cut that meets every limit: bisection on the ratio, then channels given back."""
    cost = Cost(coupling)
    whole = cost.total(_mask(coupling, field, {}, {}))
    bounds = {what: limit.of(getattr(whole, what)) for what, limit in request.limits.items()}

    def fits(counts: Mapping[str, int]) -> bool:
        total = cost.total(_mask(coupling, field, counts, by_hand))
        return all(getattr(total, what) <= bound for what, bound in bounds.items())

    if fits({}):
        return {}
    most = _counts(field, 1 - 1e-9)
    if not fits(most):
        floor = cost.total(_mask(coupling, field, most, by_hand))
        raise _unreachable(request, bounds, whole, floor)
    low, high, best = 0.0, 1 - 1e-9, most
    for _ in range(24):
        middle = (low + high) / 2
        counts = _counts(field, middle)
        if fits(counts):
            high, best = middle, counts
        else:
            low = middle
    return _give_back(field, best, fits)


def _unreachable(
    request: Request, bounds: Mapping[str, float], whole: Total, floor: Total
) -> OutOfReach:
    what = next(w for w, bound in bounds.items() if getattr(floor, w) > bound)
    least, full = getattr(floor, what), getattr(whole, what)
    return OutOfReach(
        f"--max-{what} {request.limits[what]} cannot be reached: the least is {least:,} of {full:,} "
        f"({least / full:.3f}x) {what}",
        "surgeon inspect shows what stays and why",
    )


def _give_back(
    field: _Field, counts: dict[str, int], fits: Callable[[Mapping[str, int]], bool]
) -> dict[str, int]:
    """Return one step of channels at a time to the groups cut most, while the limit still holds."""
    counts = dict(counts)
    waiting = sorted((g for g in field.groups if counts.get(g.name)), key=lambda g: -g.size)
    while waiting:
        still = []
        for g in waiting:
            fewer = max(counts[g.name] - field.step[g.name], 0)
            if counts[g.name] and fits(counts | {g.name: fewer}):
                counts[g.name] = fewer
                still.append(g)
        waiting = still
    return counts


def _mask(
    coupling: Coupling, field: _Field, counts: Mapping[str, int], by_hand: Mapping[str, Ids]
) -> NDArray[np.bool_]:
    atoms = [g.atoms[field.order[g.name][: counts.get(g.name, 0)]] for g in field.groups]
    hand = [coupling.group(n).atoms[c] for n, c in by_hand.items()]
    return coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms, *hand]))
