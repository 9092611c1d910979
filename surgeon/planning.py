"""Between groups and the Plan: a choice of channels written as indices kept, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.choose import Choice
from surgeon.couple import Coupling
from surgeon.errors import BadInput
from surgeon.graph import Graph
from surgeon.plan import Cuts, Plan, fingerprint

Mask = NDArray[np.bool_]
_OTHER = "it was made for another model"
_SAME = "build the model as it was when the plan was made"


def make_plan(
    coupling: Coupling, choice: Choice, model: Mapping[str, Any], request: Mapping[str, Any]
) -> Plan:
    """The plan of a choice. `model` and `request` are recorded as given."""
    atoms = [coupling.group(n).atoms[c] for n, c in choice.removed.items()]
    removed = coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms]))
    left = {x.name for x in choice.left}
    groups = tuple(
        Cuts(
            g.name, g.size, g.size - len(choice.removed.get(g.name, ())), g.inexact is None, g.kind
        )
        for g in coupling.groups
        if g.name not in left or g.name in choice.removed
    )
    rest = tuple(x for x in choice.left if x.name not in choice.removed)
    return Plan(keep_of(coupling, removed), model, request, groups, rest)


def keep_of(coupling: Coupling, removed: Mask) -> dict[str, dict[int, tuple[int, ...]]]:
    """Indices kept of every state dim that shrinks, under each of the tensor's names."""
    keep: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, value in coupling.graph.state.items():
        dims = coupling.dims.get(value, ())
        cut = {
            d: tuple(coupling.kept(dim, removed).tolist())
            for d, dim in enumerate(dims)
            if coupling.kept_size(dim, removed) != value.shape[d]
        }
        if cut:
            keep[name] = cut
    return keep


def model_facts(
    graph: Graph, source: str | None, inputs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What plan.json says of the model: where it came from, its inputs, its fingerprint."""
    inputs = [dict(x) for x in inputs]
    shapes = graph.shapes
    state = {n: list(s) for n, s in shapes.items()}
    facts = {"source": source, "inputs": inputs, "fingerprint": fingerprint(shapes)}
    return {**facts, "state": state}


def refuse_other_model(plan: Plan, graph: Graph) -> None:
    """BadInput where the plan was made for other tensors than these, naming the first that differs.

    A program's own constants are no part of the model.
    """
    refuse_other_shapes(plan, graph.shapes)


def refuse_other_shapes(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The same for a model's tensors by name."""
    said, recorded = plan.model.get("fingerprint"), plan.model.get("state")
    if said is None or said == fingerprint(shapes):
        return
    if not isinstance(recorded, Mapping):
        raise BadInput(
            "the plan was made for another model: its fingerprint is not this one's", _SAME
        )
    own = {n: list(s) for n, s in shapes.items() if not n.startswith("_constants.")}
    for name in [*recorded, *own]:
        if name.startswith("_constants.") or recorded.get(name) == own.get(name):
            continue
        here = f"is {own[name]} here" if name in own else "is not here"
        there = f"is {recorded[name]}" if name in recorded else "does not exist"
        raise BadInput(
            f"the plan was made for another model: there {name} {there}, it {here}", _SAME
        )
    if said != fingerprint({n: tuple(s) for n, s in recorded.items()}):
        raise BadInput(
            "the plan's fingerprint is not that of the tensors it lists: one of them was changed by hand",
            "make the plan anew, or take the fingerprint out to go by the tensors alone",
        )


def recounted(coupling: Coupling, plan: Plan) -> Plan:
    """The plan with its list of groups as its `keep` has them: people edit the one and not the other."""
    removed = removed_by(coupling, plan)
    listed = {g.name for g in plan.groups}
    groups = []
    for g in coupling.groups:
        kept = int((~removed[g.atoms]).sum())
        if g.name in listed or kept < g.size:
            groups.append(Cuts(g.name, g.size, kept, g.inexact is None, g.kind))
    names = {g.name for g in groups}
    return replace(
        plan, groups=tuple(groups), left=tuple(x for x in plan.left if x.name not in names)
    )


def removed_by(coupling: Coupling, plan: Plan) -> Mask:
    """The classes a plan removes from this model; BadInput names the first thing that does not fit."""
    classes = coupling.classes
    gone = np.zeros(classes.count, bool)
    for name, dims in plan.keep.items():
        for d, kept in dims.items():
            ids = _axis_ids(coupling, name, d)
            stays = np.zeros(len(ids), bool)
            if not kept:
                raise BadInput(f"the plan keeps nothing of {name} dim {d}", "one index must stay")
            if kept[-1] >= len(ids):
                raise BadInput(
                    f"the plan keeps index {kept[-1]} of {name} dim {d}, which has {len(ids)}",
                    _OTHER,
                )
            stays[list(kept)] = True
            gone[classes.label[ids[~stays]]] = True
    frozen = np.flatnonzero(gone & (classes.frozen >= 0))
    if len(frozen):
        why = coupling.explain(classes.reasons[int(classes.frozen[frozen[0]])])
        name = _names(coupling, frozen[0])
        raise BadInput(
            f"the plan cuts {name}, which must stay: {why}", f"take {name} out of the plan"
        )
    removed = coupling.removed(
        np.flatnonzero(gone & ~classes.derived | _factors_gone(coupling, gone))
    )
    _agree(coupling, plan, removed)
    return removed


def _factors_gone(coupling: Coupling, gone: Mask) -> Mask:
    """Factors that no state dim shows by themselves are gone when all of their elements are."""
    classes = coupling.classes
    shown = np.zeros(classes.count, bool)
    leaves = (leaf for dims in coupling.state.values() for dim in dims for leaf in dim)
    for leaf in leaves:
        if leaf.ids is not None:
            shown[classes.label[leaf.ids]] = True
    elements = np.flatnonzero(classes.derived & shown)
    reach = classes.atoms_of(np.arange(len(elements)), elements, len(elements)).tocoo()
    touched, alive = np.zeros(classes.count, bool), np.zeros(classes.count, bool)
    touched[reach.col] = True
    alive[reach.col[~gone[elements[reach.row]]]] = True
    return touched & ~alive & ~shown


def _axis_ids(coupling: Coupling, name: str, d: int) -> NDArray[np.int64]:
    value = coupling.graph.state.get(name)
    if value is None:
        raise BadInput(f"the plan cuts {name}, which this model does not have", _OTHER)
    if d >= len(value.shape):
        raise BadInput(
            f"the plan cuts dim {d} of {name}, which has {len(value.shape)} dims", _OTHER
        )
    dim = coupling.dims.get(value, ((),) * len(value.shape))[d]
    if len(dim) != 1 or dim[0].ids is None:
        raise BadInput(
            f"the plan cuts dim {d} of {name}, which the forward does not use as channels"
        )
    return dim[0].ids


def _names(coupling: Coupling, label: int) -> str:
    for g in coupling.groups:
        if label in g.atoms:
            return g.name
    return "a channel"


def _agree(coupling: Coupling, plan: Plan, removed: Mask) -> None:
    """What the plan says of each tensor is what its groups say; the first that differs is named."""
    want = keep_of(coupling, removed)
    for name in sorted(set(want) | set(plan.keep), key=list(coupling.graph.state).index):
        value = coupling.graph.state[name]
        for d in range(len(value.shape)):
            theirs = plan.keep.get(name, {}).get(d)
            ours = want.get(name, {}).get(d)
            n = value.shape[d]
            if (theirs or tuple(range(n))) == (ours or tuple(range(n))):
                continue
            raise BadInput(
                f"the plan does not fit: {name} dim {d} keeps {len(theirs or range(n))} of {n}, "
                f"but what it is coupled with keeps {len(ours or range(n))}",
                "a channel goes from every tensor of its group, or from none",
            )
