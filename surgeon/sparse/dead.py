"""Channels whose removal leaves the outputs as they are: found by what the graph computes, not by names.

A channel is dead where every layer that reads it reads a constant, or has nothing but zeros for it. What
it still emits is taken by biases (`shift.py`). Rounds: as channels go, those that only they read go too;
those whose constant nothing can take stay, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgeon.couple import Coupling
from surgeon.graph import Node, Value
from surgeon.rules import lookup
from surgeon.sparse.factors import read_by
from surgeon.sparse.facts import Facts, product_of
from surgeon.sparse.shift import Shifts, classes_at
from surgeon.sparse.silent import Silent
from surgeon.sparse.touch import Notes
from surgeon.trace.inputs import Inputs

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
_ROUNDS = 200


@dataclass(frozen=True)
class Dead:
    """What may go: positions by group; what is then added to the state that stays, in float64 by name and of
    the original's shape; and the dead channels that stay, {group: {why: positions}}."""

    channels: Mapping[str, Ids]
    carries: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Channels that go."""
        return sum(len(c) for c in self.channels.values())

    def as_dict(self) -> dict[str, Any]:
        """For report.json: positions that go, constants by tensor, and what stays by reason."""
        return {
            "channels": {n: [int(c) for c in at] for n, at in self.channels.items()},
            "carries": {
                n: {"elements": int((d != 0).sum()), "largest": float(d.abs().max())}
                for n, d in self.carries.items()
            },
            "kept": {n: {w: list(at) for w, at in r.items()} for n, r in self.kept.items()},
        }


def find_dead(
    coupling: Coupling, state: Mapping[str, Tensor], inputs: Inputs, still: Silent | None = None
) -> Dead:
    """The dead channels of every group that may be cut.

    state: the model's tensors by name. inputs: an example; its floats are not read. still: what is the
    same on all of the user's examples, where that is to count as constant.
    """
    with torch.no_grad():
        return _Search(coupling, state, inputs, still or {}).run()


def channels_gone(coupling: Coupling, dead: Dead) -> Mask:
    """All classes that go with the dead channels."""
    atoms = [coupling.group(n).atoms[at] for n, at in dead.channels.items()]
    return coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms]))


class _Search:
    def __init__(
        self, coupling: Coupling, state: Mapping[str, Tensor], inputs: Inputs, still: Silent
    ) -> None:
        self.coupling = coupling
        self.still = still
        self.notes = Notes(coupling)
        self.state = state
        self.inputs = dict(zip(coupling.graph.inputs, inputs.tensors, strict=True))
        graph = coupling.graph
        self.nodes = graph.nodes if graph.own is not None else graph.nodes[: graph.training]
        self.last = {v: at for at, node in enumerate(self.nodes) for v in node.inputs}
        self.last |= dict.fromkeys((*graph.outputs, *graph.ends), len(self.nodes))
        self.why: dict[int, str] = {}

    def run(self) -> Dead:
        """Rounds until what goes stays the same."""
        may = self._may()
        wanted = np.zeros(self.coupling.classes.count, bool)
        for _ in range(_ROUNDS):
            removed = self.coupling.removed(np.flatnonzero(wanted))
            live, shifts = self._walk(removed)
            for atom, why in shifts.blamed.items():
                self.why.setdefault(atom, why)
            new = may & ~live
            new[list(self.why)] = False
            self._leave_one(new)
            if (new == wanted).all() and not shifts.blamed:
                return self._found(wanted, shifts)
            wanted = new
        return Dead({})

    def _may(self) -> Mask:
        """Classes that may be cut one by one without changing what stays."""
        may = np.zeros(self.coupling.classes.count, bool)
        for group in self.coupling.groups:
            if group.why_not is None:
                may[group.atoms] = True
        return may & (self.coupling.classes.frozen < 0) & (self.coupling.classes.mixed < 0)

    def _leave_one(self, wanted: Mask) -> None:
        for group in self.coupling.groups:
            if len(group.atoms) and wanted[group.atoms].all():
                wanted[group.atoms[0]] = False
                self.why.setdefault(
                    int(group.atoms[0]), "all channels of its group are dead, and one stays"
                )

    def _walk(self, removed: Mask) -> tuple[Mask, Shifts]:
        """Which classes are read while they depend on the input, and what removing others shifts."""
        facts = Facts(self.notes, self.state, self.inputs)
        shifts = Shifts(self.coupling, self.notes, facts, removed)
        live = np.zeros(self.coupling.classes.count, bool)
        for at, node in enumerate(self.nodes):
            for atom in self._read(node, facts, shifts):
                live[atom] = True
            outs = shifts.carry(node)
            facts.step(node)
            for value in node.outputs:
                if value is not None and value in self.still:
                    facts.close(value, *self.still[value])
            shifts.settle(node, outs)
            for value in (*node.inputs, *(v for v in node.outputs if v is not None)):
                if self.last.get(value, at) <= at:
                    facts.forget(value)
                    shifts.forget(value)
        shifts.finish()
        return live, shifts

    def _read(self, node: Node, facts: Facts, shifts: Shifts) -> Iterator[int]:
        """Classes that this node sums over, where a term depends on the input and reaches what stays."""
        read = self.notes.read(node)
        rule = lookup(node.op)
        if read is None or rule is None:
            return
        operands, results = read
        kept = {x for terms in results for t in terms for x in t.letters}
        product, out = product_of(node), node.outputs[0]
        for value, terms in operands:
            letters = {x for t in terms for x in t.letters} - kept
            if not letters or value.state or not bool(facts.open(value).any()):
                continue
            mask = facts.open(value) > 0
            if product is not None and out is not None and value in _factors(node, product):
                gone = shifts.gone(out)
                stays = torch.ones(out.shape) if gone is None else (~gone).float()
                mask = mask & (read_by(node, product, value, facts, stays) > 0)
            for letter, marks in self.notes.by_letter(node, terms, mask).items():
                if letter in letters:
                    dim = self.coupling.bound[node.index][letter]
                    yield from classes_at(self.coupling, dim, np.flatnonzero(marks.numpy()))

    def _found(self, wanted: Mask, shifts: Shifts) -> Dead:
        channels = {}
        kept: dict[str, dict[str, tuple[int, ...]]] = {}
        for group in self.coupling.groups:
            at = np.flatnonzero(wanted[group.atoms])
            if len(at):
                channels[group.name] = at
            reasons: Counter[str] = Counter()
            for k, atom in enumerate(group.atoms.tolist()):
                if atom in self.why:
                    reasons[self.why[atom]] += 1
                    kept.setdefault(group.name, {}).setdefault(self.why[atom], ())
                    kept[group.name][self.why[atom]] += (k,)
        carries = {
            name: delta
            for value, delta in shifts.deltas.items()
            for name in value.state
            if bool((delta != 0).any())
        }
        return Dead(channels, carries, kept)


def _factors(node: Node, product: Any) -> tuple[Value, Value]:
    return node.args[product.a], node.args[product.b]
