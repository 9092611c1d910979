"""The network as report.json holds it: boxes in order of the data, groups, layers, before and after.

nodes   {layer, op, from, shape, kept?, groups?, output?}: a call of a module (`boxes.py`). layer: its path, '' the
        model itself; from: numbers of the nodes whose values it takes; shape: of what it hands on, as recorded (a
        batch of one is doubled); kept: that shape after the cut, where it differs; groups: numbers of the groups
        whose channels it carries, the largest share first; output: true where the model gives it out.
groups  {name, kind, size, kept, exact, why?, makes, along, takes}: channels before and after; why: what kept a
        group whole; numbers of the nodes whose parameters make its channels, carry them and take them in.
layers  {layer, node, out?, in?, along?, params}: [before, after] of the channels that a layer's parameters make (or
        carry: then along is true), of those that they take in, and of the numbers in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.couple import Coupling
from surgeon.distinct import distinct
from surgeon.graph import Value
from surgeon.grouping import Group
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.report.boxes import Box, boxes, owner_of

Mask = NDArray[np.bool_]
Network = dict[str, Any]


def network(coupling: Coupling, plan: Plan) -> Network:
    """Plain data of a traced network and what a plan removes of it. Raises BadInput where the plan does not fit."""
    drawn = boxes(coupling.graph)
    removed = removed_by(coupling, plan)
    readers = _readers(drawn)
    return {
        "nodes": _nodes(coupling, drawn, removed),
        "groups": [_group(g, removed, plan, readers) for g in coupling.groups],
        "layers": _layers(coupling, removed, readers),
    }


def _nodes(coupling: Coupling, drawn: list[Box], removed: Mask) -> list[dict[str, Any]]:
    told = set(coupling.graph.outputs)
    carried = _carried(coupling, drawn)
    found = []
    for box, groups in zip(drawn, carried, strict=True):
        value = box.out[-1] if box.out else None
        shape = list(value.shape) if value else []
        kept = _kept(coupling, value, removed) if value else []
        node: dict[str, Any] = {
            "layer": box.layer,
            "op": box.op if box.nodes else "input",
            "from": box.sources,
            "shape": shape,
        }
        node |= {"kept": kept} if kept != shape else {}
        node |= {"groups": groups} if groups else {}
        node |= {"output": True} if told.intersection(box.out) else {}
        found.append(node)
    return found


def _kept(coupling: Coupling, value: Value, removed: Mask) -> list[int]:
    if value not in coupling.dims:
        return list(value.shape)
    return [coupling.kept_size(dim, removed) for dim in coupling.dims[value]]


def _carried(coupling: Coupling, drawn: list[Box]) -> list[list[int]]:
    """For each box the groups that stand along what it hands on."""
    rows, labels = [], []
    for number, box in enumerate(drawn):
        leaves = (leaf for v in box.out for dim in coupling.dims.get(v, ()) for leaf in dim)
        for leaf in leaves:
            if leaf.ids is not None:
                labels.append(distinct(coupling.classes.label[leaf.ids]))
                rows.append(np.full(len(labels[-1]), number, np.int64))
    if not rows:
        return [[] for _ in drawn]
    group_of = np.full(coupling.classes.count, -1, np.int64)
    for k, group in enumerate(coupling.groups):
        group_of[group.atoms] = k
    reach = coupling.classes.atoms_of(np.concatenate(rows), np.concatenate(labels), len(drawn))
    found = []
    for a, b in zip(reach.indptr[:-1], reach.indptr[1:], strict=True):
        here = group_of[reach.indices[a:b]]
        names, counts = np.unique(here[here >= 0], return_counts=True)
        found.append(names[np.argsort(-counts, kind="stable")].tolist())
    return found


def _readers(drawn: list[Box]) -> dict[str, list[int]]:
    """State tensor -> the boxes that read it."""
    found: dict[str, list[int]] = {}
    for number, box in enumerate(drawn):
        names = dict.fromkeys(name for n in box.nodes for v in n.inputs for name in v.state)
        for name in names:
            found.setdefault(name, []).append(number)
    return found


def _group(
    group: Group, removed: Mask, plan: Plan, readers: dict[str, list[int]]
) -> dict[str, Any]:
    left = next((x.why for x in plan.left if x.name == group.name), None)
    kept = int((~removed[group.atoms]).sum())
    why = (left or group.why_not) if kept == group.size else None
    found: dict[str, Any] = {"name": group.name, "kind": group.kind, "size": group.size}
    found |= {"kept": kept, "exact": group.inexact is None}
    found |= {"why": why} if why else {}
    for role in ("makes", "along", "takes"):
        states = (m.state for m in group.members if m.role == role)
        at = {at for state in states for at in readers.get(state, ())}
        found[role] = sorted(at.difference(found["makes"]) if role == "along" else at)
    return found


def _layers(
    coupling: Coupling, removed: Mask, readers: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """Layers with parameters that the forward reads, in order of their first use."""
    roles: dict[tuple[str, int], str] = {}
    for use in coupling.uses:
        if roles.get((use.state, use.dim), "opaque") == "opaque":
            roles[use.state, use.dim] = use.role
    owned: dict[str, dict[str, None]] = {}
    for name in coupling.graph.state:
        if name in coupling.graph.parameters and name in readers:
            owned.setdefault(owner_of(name), {})[name] = None
    found = []
    for layer, names in owned.items():
        sides: dict[str, list[list[int]]] = {}
        params = [0, 0]
        for name in names:
            value = coupling.graph.state[name]
            kept = _kept(coupling, value, removed)
            params = [params[0] + prod(value.shape), params[1] + prod(kept)]
            for d, pair in enumerate(zip(value.shape, kept, strict=True)):
                role = roles.get((value.state[0], d), "opaque")
                sides.setdefault(role, []).append(list(pair))
        node = min(at for name in names for at in readers[name])
        out = _widest(sides.get("makes") or sides.get("along") or ())
        taken = _widest(sides.get("takes", ()))
        entry: dict[str, Any] = {"layer": layer, "node": node}
        entry |= {"out": out} if out else {}
        entry |= {"in": taken} if taken else {}
        entry |= {"along": True} if out and not sides.get("makes") else {}
        found.append({**entry, "params": params})
    return sorted(found, key=lambda entry: entry["node"])


def _widest(pairs: Iterable[list[int]]) -> list[int] | None:
    return max(pairs, default=None)
