"""Scores + request -> which channels of which group go. The scopes, and the search for a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.address import positions
from surgeon.budget.field import Field, Unit, field_of
from surgeon.budget.meter import Aims, Meter
from surgeon.budget.request import Request
from surgeon.budget.share import Curve, share_out
from surgeon.budget.worth import curves_of
from surgeon.couple import Coupling
from surgeon.errors import OutOfReach
from surgeon.plan import Left

Ids = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """Channels that go, by group name, and the groups that were left alone with the reason."""

    removed: Mapping[str, Ids]
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()


def choose(
    coupling: Coupling,
    scores: Mapping[str, Array],
    request: Request,
    curves: Mapping[str, Curve] | None = None,
    gone: Mapping[str, Ids] | None = None,
    aims: Aims | None = None,
) -> Choice:
    """Which channels go. OutOfReach where a limit cannot be met or nothing can be cut.

    curves: what each group's loss costs the outputs (`share_out`); then these say how much of each goes.
    gone: channels that an earlier step removed, by group; they go first, and none of them stays.
    aims: what the request's measured limits are taken to be, predicted.
    """
    scores = {n: _first(s, (gone or {}).get(n)) for n, s in scores.items()}
    by_hand = positions(coupling, coupling.groups, request.remove)
    for name, channels in by_hand.items():
        if len(channels) == coupling.group(name).size:
            raise OutOfReach(
                f"--remove takes all {len(channels)} channels of {name}: one must stay",
                "leave out at least one position",
            )
    field = field_of(coupling, scores, request, by_hand, gone)
    counts: Sequence[int] = ()
    notes: tuple[str, ...] = ()
    if request.threshold is not None:
        counts = _below(field, request.threshold)
    elif request.limits or aims:
        trial = _Trial(coupling, field, by_hand, Meter(coupling, request.limits, aims))
        if not curves and request.scope == "local":
            curves = curves_of(field.units)
        counts = _shared(trial, request, curves) if curves else _reach(trial, request)
    elif curves and request.ratio:
        counts = _of_channels(field, request, curves)
    elif request.ratio is not None or request.ratio_for:
        counts = _counts(field, request.ratio or 0.0)
        notes = _rounded(field, request, counts) if request.near and counts else ()
    choice = _choice(field, counts, by_hand)
    choice = replace(choice, notes=choice.notes + notes)
    if not choice.removed:
        _nothing(field, request)
    return choice


def most(coupling: Coupling, scores: Mapping[str, Array], request: Request) -> Choice:
    """All that may go, whatever it costs: of each group that the request lets compete, one step of channels stays."""
    by_hand = positions(coupling, coupling.groups, request.remove)
    field = field_of(coupling, scores, request, by_hand)
    local = replace(field, scope="local")
    return _choice(field, _counts(local, 1 - 1e-9), by_hand)


def _rounded(field: Field, request: Request, counts: Sequence[int]) -> tuple[str, ...]:
    """What rounding to friendly widths made of the ratio; nothing where it changed no count."""
    exact = _counts(replace(field, units=tuple(replace(u, near=None) for u in field.units)), request.ratio or 0.0)  # fmt: skip
    total = sum(u.size * u.weight for u in field.units)
    asked, done = (sum(n * u.weight for n, u in zip(c, field.units, strict=True)) / total for c in (exact, counts))  # fmt: skip
    if list(exact) == list(counts):
        return ()
    return (
        f"widths are rounded to what kernels like, where that is near: {done:.1%} of the channels go for {asked:.1%}; "
        "--round-to 1 takes any count",
    )


def _choice(field: Field, counts: Sequence[int], by_hand: Mapping[str, Ids]) -> Choice:
    chosen = (u.channels(k) for u, k in zip(field.units, counts, strict=False) if k)
    removed = {g.name: np.sort(channels) for unit in chosen for g, channels in unit}
    return Choice({**removed, **by_hand}, field.left, field.notes)


def _first(scores: Array, gone: Ids | None) -> Array:
    """Scores under which these channels are the first to go."""
    if gone is None or not len(gone):
        return scores
    low = scores[np.isfinite(scores)].min(initial=0.0) - 1.0
    scores = np.where(np.isneginf(scores), low, scores)  # broken weights come after them
    scores[gone] = -np.inf
    return scores


def _nothing(field: Field, request: Request) -> None:
    if request.ratio == 0:
        return  # a ratio of nothing is a plan of nothing
    left = field.left
    if field.units:
        met = "the limits are met already" if request.limits else "that is no channel of any group"
        if request.threshold is not None:
            least = min(float(u.ranked.min(initial=np.inf)) for u in field.units)
            met = f"no score is below {request.threshold:g}, the lowest is {least:.3g}"
        raise OutOfReach(f"nothing is removed: {met}", "ask for more")
    why = (
        "; ".join(f"{x.name}: {x.why}" for x in left[:4])
        or "no layer that an output depends on has channels"
    )
    raise OutOfReach(
        f"nothing can be cut ({why})", "surgeon inspect shows every group and its reason"
    )


def _counts(field: Field, ratio: float) -> list[int]:
    """Channels that each group of each unit loses at this ratio, under the request's scope; at the least what went before."""
    counts = zip(_shares(field, ratio), field.units, strict=True)
    return [max(count, unit.gone) for count, unit in counts]


def _shares(field: Field, ratio: float) -> list[int]:
    out = [0] * len(field.units)
    pools: dict[int, list[int]] = {}
    for k, unit in enumerate(field.units):
        if unit.ratio is not None or field.scope == "local":
            share = ratio if unit.ratio is None else unit.ratio
            out[k] = unit.size - unit.kept(share)
        else:
            key = unit.groups[0].key if field.scope == "isomorphic" else 0
            pools.setdefault(key, []).append(k)
    for pool in pools.values():
        lost = _compete([field.units[k] for k in pool], ratio)
        for k, share in zip(pool, lost, strict=True):
            unit = field.units[k]
            out[k] = unit.size - unit.kept(share)
    return out


def _below(field: Field, threshold: float) -> list[int]:
    """Channels of each unit whose score is lower; a unit's own ratio holds, and the floor stays."""
    out = []
    for unit in field.units:
        kept = unit.size - int(np.searchsorted(unit.ranked, threshold))
        if kept != unit.grid.down(kept):
            kept = min(unit.grid.up(kept), unit.size)
        own = unit.ratio is not None
        out.append(unit.size - (unit.kept(unit.ratio or 0.0) if own else kept))
    return out


def _compete(pool: Sequence[Unit], ratio: float) -> list[float]:
    """The least important channels of a whole pool go: the share that each unit loses."""
    keys = np.concatenate([u.ranked for u in pool])
    owner = np.concatenate([np.full(len(u.ranked), k) for k, u in enumerate(pool)])
    weight = np.array([u.weight for u in pool])
    order = np.argsort(keys, kind="stable")
    wanted = int(sum(u.size * u.weight for u in pool) * ratio + 0.5)
    goes = order[np.cumsum(weight[owner[order]]) <= wanted]
    counts = np.bincount(owner[goes], minlength=len(pool))
    return [int(n) / u.size for n, u in zip(counts, pool, strict=True)]


@dataclass(frozen=True)
class _Trial:
    """What would be left if each unit lost so many channels."""

    coupling: Coupling
    field: Field
    by_hand: Mapping[str, Ids]
    meter: Meter

    def over(self, counts: Sequence[int]) -> float:
        """By how much the limits are missed."""
        return self.meter.over(_mask(self.coupling, self.field, counts, self.by_hand))

    def fits(self, counts: Sequence[int]) -> bool:
        """Whether every limit is met."""
        return self.over(counts) <= 0


def _reach(trial: _Trial, request: Request) -> list[int]:
    """The least cut that meets every limit: bisection on the ratio, then channels given back."""
    field = trial.field
    none = [u.gone for u in field.units]
    if trial.fits(none):
        return none
    most = _counts(field, 1 - 1e-9)
    if not trial.fits(most):
        raise _unreachable(trial, request, most)
    low, high, best = 0.0, 1 - 1e-9, most
    for _ in range(24):
        middle = (low + high) / 2
        counts = _counts(field, middle)
        if trial.fits(counts):
            high, best = middle, counts
        else:
            low = middle
    return _give_back(field, best, trial.fits)


def _shared(trial: _Trial, request: Request, curves: Mapping[str, Curve]) -> list[int]:
    """Counts by measured losses, or by scores' worth, until every limit is met."""
    fixed, own = _apart(trial.field, curves)
    counts = share_out(trial.field.units, curves, trial.over, trial.fits, fixed, own)
    if not trial.fits(counts):
        return _reach(trial, request)
    return _give_back(trial.field, counts, trial.fits)


def _apart(field: Field, curves: Mapping[str, Curve]) -> tuple[list[int], list[bool]]:
    """Counts to begin with, and which units keep them: those with a ratio of their own, or with a group without a curve."""
    own = [u.ratio is not None or any(g.name not in curves for g in u.groups) for u in field.units]
    fixed = [
        max(u.size - u.kept(u.ratio or 0.0) if alone else 0, u.gone)
        for u, alone in zip(field.units, own, strict=True)
    ]
    return fixed, own


def _of_channels(field: Field, request: Request, curves: Mapping[str, Curve]) -> list[int]:
    """The ratio of all channels goes; where kinds are named, of each: a head is no fair match for a hidden unit."""
    counts, own = _apart(field, curves)
    kinds = [u.groups[0].kind if request.cut else "" for u in field.units]
    for kind in sorted(set(kinds)):
        still = [alone or k != kind for alone, k in zip(own, kinds, strict=True)]
        free = [(u, k) for k, (u, stays) in enumerate(zip(field.units, still, strict=True)) if not stays]  # fmt: skip
        wanted = int(sum(u.size * u.weight for u, _ in free) * (request.ratio or 0.0) + 0.5)

        def kept(counts: Sequence[int], free: list[tuple[Unit, int]] = free) -> float:
            return float(-sum(counts[k] * u.weight for u, k in free))

        def enough(counts: Sequence[int], kept: Callable[..., float] = kept, n: int = wanted) -> bool:  # fmt: skip
            return -kept(counts) >= n

        counts = share_out(field.units, curves, kept, enough, counts, still)
    return counts


def _unreachable(trial: _Trial, request: Request, most: Sequence[int]) -> OutOfReach:
    whole = trial.meter.whole
    floor = trial.meter.of(_mask(trial.coupling, trial.field, most, trial.by_hand))
    what = next(w for w, bound in trial.meter.bounds.items() if floor[w] > bound)
    least, full = floor[what], whole[what]
    limit = (request.limits | request.measured)[what]
    amount = f"{least:,} of {full:,} " if what in request.limits else "about "
    return OutOfReach(
        f"--max-{what} {limit} cannot be reached: the least is {amount}({least / full:.3f}x) {what}",
        "surgeon inspect shows what stays and why",
    )


def _give_back(field: Field, counts: list[int], fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return one step of channels at a time to the units cut most, while the limit still holds."""
    counts = list(counts)
    waiting = sorted((k for k, n in enumerate(counts) if n), key=lambda k: -field.units[k].size)
    while waiting:
        still = []
        for k in waiting:
            unit, least = field.units[k], field.units[k].gone
            back = unit.size - unit.grid.up(unit.size - counts[k])
            fewer = [*counts[:k], max(back, least), *counts[k + 1 :]]
            if counts[k] > least and fits(fewer):
                counts = fewer
                still.append(k)
        waiting = still
    return counts


def _mask(
    coupling: Coupling, field: Field, counts: Sequence[int], by_hand: Mapping[str, Ids]
) -> NDArray[np.bool_]:
    chosen = (u.channels(k) for u, k in zip(field.units, counts, strict=True) if k)
    atoms = [g.atoms[channels] for unit in chosen for g, channels in unit]
    hand = [coupling.group(n).atoms[c] for n, c in by_hand.items()]
    return coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms, *hand]))
