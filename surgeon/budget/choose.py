"""Scores + request -> which channels of which group go. The scopes, and the search for a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.address import positions
from surgeon.budget.align import keep_count
from surgeon.budget.cost import Cost
from surgeon.budget.field import Field, Unit, field_of
from surgeon.budget.request import Request
from surgeon.budget.share import Curve, share_out
from surgeon.couple import Coupling
from surgeon.errors import OutOfReach
from surgeon.plan import Left

if TYPE_CHECKING:
    from surgeon.budget.cost import Total

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
) -> Choice:
    """Which channels go. OutOfReach where a limit cannot be met or nothing can be cut.

    curves: what each group's loss costs the outputs (`share_out`); then these say how much of each goes.
    gone: channels that an earlier step removed, by group; they go first, and none of them stays.
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
    if request.threshold is not None:
        counts = _below(field, request.threshold)
    elif curves and (request.limits or request.ratio):
        counts = _shared(coupling, field, request, by_hand, curves)
    elif request.limits:
        counts = _reach(coupling, field, request, by_hand)
    elif request.ratio is not None or request.ratio_for:
        counts = _counts(field, request.ratio or 0.0)
    chosen = (u.channels(k) for u, k in zip(field.units, counts, strict=False) if k)
    removed = {g.name: np.sort(channels) for unit in chosen for g, channels in unit}
    removed |= by_hand
    if not removed:
        _nothing(field, request)
    return Choice(removed, field.left, field.notes)


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
    why = "; ".join(f"{x.name}: {x.why}" for x in left[:4]) or "no layer has channels"
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
            out[k] = unit.size - keep_count(unit.size, share, unit.step)
        else:
            key = unit.groups[0].key if field.scope == "isomorphic" else 0
            pools.setdefault(key, []).append(k)
    for pool in pools.values():
        lost = _compete([field.units[k] for k in pool], ratio)
        for k, share in zip(pool, lost, strict=True):
            unit = field.units[k]
            out[k] = unit.size - keep_count(unit.size, share, unit.step)
    return out


def _below(field: Field, threshold: float) -> list[int]:
    """Channels of each unit whose score is lower; a unit's own ratio holds, and the floor stays."""
    out = []
    for unit in field.units:
        kept = unit.size - int(np.searchsorted(unit.ranked, threshold))
        kept = min(-(-kept // unit.step) * unit.step, unit.size)
        own = unit.ratio is not None
        out.append(
            unit.size - (keep_count(unit.size, unit.ratio or 0.0, unit.step) if own else kept)
        )
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


def _reach(
    coupling: Coupling, field: Field, request: Request, by_hand: Mapping[str, Ids]
) -> list[int]:
    """The least cut that meets every limit: bisection on the ratio, then channels given back."""
    cost = Cost(coupling)
    none = [u.gone for u in field.units]
    whole = cost.total(_mask(coupling, field, [0] * len(none), {}))
    bounds = {what: limit.of(getattr(whole, what)) for what, limit in request.limits.items()}

    def fits(counts: Sequence[int]) -> bool:
        total = cost.total(_mask(coupling, field, counts, by_hand))
        return all(getattr(total, what) <= bound for what, bound in bounds.items())

    if fits(none):
        return none
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


def _shared(
    coupling: Coupling,
    field: Field,
    request: Request,
    by_hand: Mapping[str, Ids],
    curves: Mapping[str, Curve],
) -> list[int]:
    """Counts by measured losses. A unit with a ratio of its own, or a group without a curve, takes no part."""
    own = [u.ratio is not None or any(g.name not in curves for g in u.groups) for u in field.units]
    fixed = [
        max(u.size - keep_count(u.size, u.ratio or 0.0, u.step) if alone else 0, u.gone)
        for u, alone in zip(field.units, own, strict=True)
    ]
    if not request.limits:
        return _of_channels(field, request, curves, fixed, own)
    cost = Cost(coupling)
    whole = cost.total(_mask(coupling, field, [0] * len(field.units), {}))
    bounds = {what: limit.of(getattr(whole, what)) for what, limit in request.limits.items()}

    def over(counts: Sequence[int]) -> float:
        """By how much the limits are missed, each relative to the whole."""
        total = cost.total(_mask(coupling, field, counts, by_hand))
        missed = (
            max(getattr(total, w) - b, 0) / max(getattr(whole, w), 1) for w, b in bounds.items()
        )
        return float(sum(missed))

    counts = share_out(field.units, curves, over, lambda c: over(c) <= 0, fixed, own)
    if over(counts) > 0:
        return _reach(coupling, field, request, by_hand)
    return _give_back(field, counts, lambda c: over(c) <= 0)


def _of_channels(
    field: Field,
    request: Request,
    curves: Mapping[str, Curve],
    counts: list[int],
    own: Sequence[bool],
) -> list[int]:
    """The ratio of all channels goes; where kinds are named, of each: a head is no fair match for a hidden unit."""
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


def _give_back(field: Field, counts: list[int], fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return one step of channels at a time to the units cut most, while the limit still holds."""
    counts = list(counts)
    waiting = sorted((k for k, n in enumerate(counts) if n), key=lambda k: -field.units[k].size)
    while waiting:
        still = []
        for k in waiting:
            least = field.units[k].gone
            fewer = [*counts[:k], max(counts[k] - field.units[k].step, least), *counts[k + 1 :]]
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
