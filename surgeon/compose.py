"""Plans of one network after another: two cuts as one, and the last step of a cut by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from surgeon.errors import BadInput
from surgeon.plan import Carries, Cuts, Folds, Plan

_Runs = tuple[tuple[int, int, float], ...]
_Dims = Mapping[int, tuple[int, ...]]


def compose(first: Plan, second: Plan) -> Plan:
    """One plan for two cuts: `second` was made for the network that `first` leaves.

    Positions are those of the network that `first` was made for, so that the plan can be applied to that one,
    and checked against it. Tensors that only the cut network has (constants of a program) are left out.
    Raises BadInput where `second` is of another network, or where only one of them leaves the outputs as they are.
    """
    _refuse_other(first, second)
    known = first.model.get("state")
    names = [n for n in {**first.keep, **second.keep} if known is None or n in known]
    keep = {n: _through(n, first.keep.get(n, {}), second.keep.get(n, {})) for n in names}
    tuned = second.model.get("tuned") or first.model.get("tuned")
    model = {**first.model, **({"tuned": tuned} if tuned else {})}
    groups = _groups(first.groups, second.groups)
    cut = {g.name for g in groups}
    return Plan(
        keep,
        model,
        {**second.request, "after": dict(first.request)},
        groups,
        tuple(x for x in second.left if x.name not in cut),
        _folds(first.folds, second, 1),
        _carries(first, second),
    )


def since(later: Plan, earlier: Plan) -> Plan:
    """What `later` cuts that `earlier` has not: a plan for the network that `earlier` leaves.

    Both are plans for the same network, and what `earlier` removes, `later` removes too; else BadInput.
    """
    keep: dict[str, dict[int, tuple[int, ...]]] = {}
    for name in {**earlier.keep, **later.keep}:
        before, after = earlier.keep.get(name, {}), later.keep.get(name, {})
        dims = {d: _among(name, before.get(d), after.get(d)) for d in {**before, **after}}
        left = {d: at for d, at in dims.items() if at is not None}
        if left:
            keep[name] = left
    counts = {g.name: g.kept for g in earlier.groups}
    groups = tuple(replace(g, size=counts.get(g.name, g.size)) for g in later.groups)
    model = {k: v for k, v in later.model.items() if k not in ("fingerprint", "state")}
    step = Plan(keep, model, later.request, groups, later.left)
    return replace(step, folds=_folds(earlier.folds, replace(step, folds=later.folds), -1))


def _refuse_other(first: Plan, second: Plan) -> None:
    here, there = first.model.get("state"), second.model.get("state")
    if not isinstance(here, Mapping) or not isinstance(there, Mapping):
        return
    for name in here.keys() & there.keys():
        kept = first.keep.get(name, {})
        left = [len(kept[d]) if d in kept else n for d, n in enumerate(here[name])]
        if left != list(there[name]):
            raise BadInput(
                f"the second plan is of another network: there {name} is {there[name]}, the first leaves {left}",
                "make the second plan from what the first one's cut gave",
            )


def _through(name: str, first: _Dims, second: _Dims) -> dict[int, tuple[int, ...]]:
    """{dim: positions} of the second plan, as positions of the network before the first."""
    dims = dict(first)
    for d, kept in second.items():
        if d in first and kept[-1] >= len(first[d]):
            raise BadInput(
                f"the second plan keeps index {kept[-1]} of {name} dim {d}, of which the first leaves {len(first[d])}",
                "make the second plan from what the first one's cut gave",
            )
        dims[d] = tuple(first[d][i] for i in kept) if d in first else kept
    return dims


def _among(
    name: str, before: Sequence[int] | None, after: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Positions of `after` among those of `before`; None where all of them stay."""
    if before is None:
        return None if after is None else tuple(after)
    at = {position: i for i, position in enumerate(before)}
    if after is None or any(position not in at for position in after):
        raise BadInput(
            f"the later plan keeps more of {name} than the earlier one", "a channel goes once"
        )
    return None if len(after) == len(before) else tuple(at[position] for position in after)


def _folds(first: Folds, second: Plan, power: int) -> Folds:
    """Factors of rows after both cuts: those of the first, to a power, on the rows that stay, times the second's."""
    found: dict[str, _Runs] = {}
    for name in {**first, **second.folds}:
        old, new = first.get(name, ()), second.folds.get(name, ())
        kept = second.keep.get(name, {}).get(0)
        last = max(r[1] for r in (*old, *new))
        rows = range(last) if kept is None else kept
        runs = _runs([_at(old, at) ** power * _at(new, i) for i, at in enumerate(rows)])
        if runs:
            found[name] = runs
    return found


def _at(runs: _Runs, row: int) -> float:
    return next((factor for first, last, factor in runs if first <= row < last), 1.0)


def _runs(factors: Sequence[float]) -> _Runs:
    """Factors of rows as [first row, last row + 1, factor]; ones are left out."""
    found: list[tuple[int, int, float]] = []
    for row, factor in enumerate(factors):
        if found and found[-1][1] == row and found[-1][2] == factor:
            found[-1] = (found[-1][0], row + 1, factor)
        elif factor != 1:
            found.append((row, row + 1, factor))
    return tuple(found)


def _carries(first: Plan, second: Plan) -> Carries | None:
    if first.carries is None and second.carries is None:
        return None
    if first.carries is None or second.carries is None:
        raise BadInput(
            "one of the plans removes what is dead and leaves the outputs as they are, and the other does not",
            "keep both: apply them one after the other",
        )
    state: Any = first.model.get("state") or {}
    found = dict(second.carries)
    for name, added in first.carries.items():
        shape = _left(state.get(name, (len(added),)), first.keep.get(name, {}))
        kept = second.keep.get(name, {})
        old = [added[i] for i in _flat(shape, kept)]
        found[name] = tuple(
            a + b for a, b in zip(old, found.get(name, (0.0,) * len(old)), strict=True)
        )
    return found


def _left(shape: Sequence[int], kept: _Dims) -> list[int]:
    return [len(kept[d]) if d in kept else n for d, n in enumerate(shape)]


def _flat(shape: Sequence[int], kept: _Dims) -> list[int]:
    """Row-major places of the kept elements of a tensor."""
    places = [0]
    for d, n in enumerate(shape):
        places = [at * n + i for at in places for i in kept.get(d, range(n))]
    return places


def _groups(first: Sequence[Cuts], second: Sequence[Cuts]) -> tuple[Cuts, ...]:
    """Sizes of the first, kept as the second has it: groups are the same layers under the same names."""
    later = {g.name: g for g in second}
    both = [
        replace(g, kept=later[g.name].kept, exact=g.exact and later[g.name].exact)
        if g.name in later
        else g
        for g in first
    ]
    return (*both, *(g for n, g in later.items() if n not in {x.name for x in first}))
