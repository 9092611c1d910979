"""What is dead, as a plan and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from surgeon.budget.choose import Choice
from surgeon.errors import OutOfReach
from surgeon.plan import Left, Plan
from surgeon.planning import make_plan
from surgeon.score.batches import Sample
from surgeon.slices import sliced
from surgeon.sparse.dead import Dead, find_dead
from surgeon.sparse.silent import silent
from surgeon.trace.tensors import named_tensors

if TYPE_CHECKING:
    from surgeon.pipeline.traced import Traced

_SHOWN = 6  # groups in a note


def dead_of(traced: Traced) -> Dead:
    """The dead channels of a traced model."""
    return find_dead(traced.coupling, named_tensors(traced.model), traced.inputs)


def dead_plan(
    traced: Traced,
    model: Mapping[str, Any],
    request: Mapping[str, Any],
    data: Iterable[Sample] | None = None,
) -> tuple[Plan, Dead]:
    """The plan that removes what is dead, with what it carries; OutOfReach where nothing is.

    model, request: what the plan says of the model and of what was asked. data: what is dead on these
    examples counts too; then the plan is one of any cut, and carries nothing: `pipeline/settled.py` does.
    """
    coupling, state = traced.coupling, named_tensors(traced.model)
    still = silent(traced.graph, state, traced.inputs, data) if data is not None else None
    dead = find_dead(coupling, state, traced.inputs, still)
    if not dead.channels:
        why = "; ".join(stays(dead)[:4]) or "no channel is constant or unread"
        raise OutOfReach(
            f"nothing is dead: {why}",
            "zeros that leave no channel empty cannot be cut away: --ratio removes the least important channels",
        )
    left = [
        Left(g.name, g.size, g.why_not or "nothing of it is dead", g.kind)
        for g in coupling.groups
        if g.name not in dead.channels
    ]
    plan = make_plan(coupling, Choice(dead.channels, tuple(left)), model, request)
    if data is not None:
        return plan, dead
    carries = {
        name: tuple(sliced(delta, plan.keep.get(name, {})).flatten().tolist())
        for name, delta in dead.carries.items()
    }
    return Plan(plan.keep, plan.model, plan.request, plan.groups, plan.left, carries=carries), dead


def said_of(dead: Dead) -> tuple[str, ...]:
    """Notes: how much goes, what took up constants, and dead channels that stay."""
    groups = [f"{n} {len(c)}" for n, c in dead.channels.items()]
    notes = [f"{dead.count} dead channels go: {_few(groups)}"]
    if dead.carries:
        notes.append(f"their constants are carried into {_few(list(dead.carries))}")
    return (*notes, *(f"dead, and kept: {text}" for text in stays(dead)[:_SHOWN]))


def stays(dead: Dead) -> list[str]:
    """'conv1: 4 channels: why', for what is constant and cannot go."""
    return [
        f"{name}, {len(at)} channels: {why}"
        for name, reasons in dead.kept.items()
        for why, at in reasons.items()
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
