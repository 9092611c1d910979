"""A traced model and what was asked -> the plan of what goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from surgeon.budget import Request, choose
from surgeon.budget.choose import Choice
from surgeon.budget.field import competing
from surgeon.budget.share import Curve
from surgeon.couple import Coupling
from surgeon.errors import BadInput
from surgeon.heal.study import study
from surgeon.pipeline.asked import Asked
from surgeon.pipeline.sensed import shares
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.traced import Traced, trace
from surgeon.plan import Plan
from surgeon.planning import make_plan, model_facts
from surgeon.score import Evidence, Material, Original, refuse_without_data, scores_of
from surgeon.sensitivity.record import Sensitivity
from surgeon.sparse.dead import Dead
from surgeon.sparse.plan import dead_plan, said_of
from surgeon.teach import without_op
from surgeon.trace.called import calls
from surgeon.trace.folding import read_state
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorded import describe

Array = NDArray[np.float64]

_UNUSED = "not used with these inputs, left whole"
_TRAINED = (
    "used by the training forward alone, cut with the rest, compared op by op and not by numbers"
)


@dataclass(frozen=True)
class Proposal:
    """A plan before it is carried out, with the traced model that it was made for."""

    traced: Traced
    plan: Plan
    notes: tuple[str, ...]
    dead: Dead | None = None


def proposed(
    model: nn.Module | Traced,
    inputs: Inputs,
    asked: Asked,
    source: str | None,
    run: Steps,
) -> Proposal:
    """The plan, with what was seen on the way. model: traced by now, or not yet."""
    refuse_unready(asked)
    request, material = asked.request, asked.material
    if isinstance(model, Traced):
        traced = model
    else:
        traced = run("trace and couple", lambda: trace(model, inputs))
    if request.dead:
        facts = model_facts(traced.graph, source, describe(inputs))
        said = request.as_dict() | material.facts()
        plan, dead = run("find what is dead", lambda: dead_plan(traced, facts, said, material.data))
        return Proposal(traced, plan, said_of(dead) + traced.notes, dead)
    choice, broken = run("score and plan", lambda: _choose(traced, asked))
    return drawn(traced, (choice, broken), asked, source, inputs)


def refuse_unready(asked: Asked) -> None:
    """BadInput for what no plan can be made of, whatever the model is."""
    request = asked.request
    refuse_without_data(request.criterion, asked.material.data is not None)
    if request.measured:
        raise BadInput(
            f"what a limit on {' and '.join(request.measured)} cuts is known once cuts were measured",
            "leave out --dry-run, or ask for --max-flops or --ratio to see a plan",
        )


def drawn(
    traced: Traced,
    chosen: tuple[Choice, tuple[str, ...]],
    asked: Asked,
    source: str | None,
    inputs: Inputs,
) -> Proposal:
    """The plan of what was chosen, and of which groups the weights were broken."""
    known = asked.sensitivity
    said = (
        asked.request.as_dict()
        | asked.material.facts()
        | ({} if known is None else {"sensitivity": known.said()})
        | ({} if not asked.request.measured else {"target": vars(asked.target)})
    )
    facts = model_facts(traced.graph, source, describe(inputs))
    plan = make_plan(traced.coupling, chosen[0], facts, said)
    notes = _notes(traced.coupling, *chosen) + _shared(known, asked.material)
    return Proposal(traced, plan, notes + traced.notes)


@dataclass(frozen=True, eq=False)
class Scored:
    """`scores`: group -> [channels], the lowest go first. `curves`: group -> [(channels gone, loss)], where data say so.
    `broken`: groups with NaN or infinite weights."""

    scores: dict[str, Array]
    curves: Mapping[str, Curve] | None
    broken: tuple[str, ...]


def scored(
    traced: Traced,
    request: Request,
    material: Material,
    among: Callable[[Mapping[str, Array]], Collection[str]] | None = None,
) -> Scored:
    """What the criterion, or the data, say of every group that may be cut.

    among: which of the groups that have scores are looked at on the data; by default those that the request lets compete.
    """
    model, coupling = traced.model, traced.coupling
    original = Original(model, coupling, material)
    evidence = Evidence(read_state(model), request.by, request.seed, original)
    how = (request.criterion, request.reduce, request.normalise)
    scores, broken = scores_of(coupling.groups, evidence, *how)
    if material.data is None or not {"select", "allocate"} & set(material.recover):
        return Scored(scores, None, broken)
    free = competing(coupling, scores, request) if among is None else among(scores)
    asked = {name: score for name, score in scores.items() if name in free}
    found = study(model, coupling, asked, material.data, material.recover)
    return Scored({**scores, **found.scores}, dict(found.curves), broken)


def judged(traced: Traced, asked: Asked) -> Scored:
    """As `scored`; the curves are those that were measured before, where a sensitivity is given."""
    known, material = asked.sensitivity, asked.material
    if known is None:
        return scored(traced, asked.request, material)
    rest = tuple(part for part in material.recover if part != "allocate")
    found = scored(traced, asked.request, replace(material, recover=rest))
    return replace(found, curves=shares(known, traced))


def _choose(traced: Traced, asked: Asked) -> tuple[Choice, tuple[str, ...]]:
    found = judged(traced, asked)
    return choose(traced.coupling, found.scores, asked.request, found.curves), found.broken


def _shared(known: Sensitivity | None, material: Material) -> tuple[str, ...]:
    if known is None or not known.how.get("fit") or "compensate" in material.recover:
        return ()
    why = "layers were fitted anew for each loss in the sensitivity given, and here they are not"
    return (f"{why}: give --data, or measure with --no-fit",)


def _notes(coupling: Coupling, choice: Choice, broken: Sequence[str]) -> tuple[str, ...]:
    notes = list(choice.notes)
    if broken:
        notes.append(f"NaN or infinite weights, their channels go first: {', '.join(broken)}")
    graph = coupling.graph
    inside = tuple(f"{call.path}." for _, call in calls(graph))  # run, and not looked at
    unmet = {name for name, value in graph.state.items() if value not in coupling.dims}
    for what, found in (
        (_UNUSED, graph.parameters & unmet),
        (_TRAINED, graph.trained & (graph.parameters | graph.beside)),
    ):
        names = [n for n in graph.state if n in found and not n.startswith(inside)]
        if names:
            more = "; where it is used, it may not fit what was cut" * (what == _UNUSED)
            notes.append(f"{what}: {', '.join(names[:4])} ({len(names)} tensors){more}")
    for op in without_op(node.op for node in graph.nodes):
        notes.append(f"surgeon.rule was given for {op}, and torch.ops has no such op: see its name")
    return tuple(notes)
