"""How much of a network may be cut, and what holds the rest: by parameters, grouped by reason.

A parameter's element may go where one of its dimensions does there: a class of channels that a group
which may be cut removes. What no dimension gives up is held, by the reasons of all of its dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.axes import Dim
from surgeon.classes import Why
from surgeon.couple import Coupling
from surgeon.distinct import distinct

Mask = NDArray[np.bool_]
_UNREAD = "not used with these inputs"
_NO_CHANNELS = "its dimensions are no channels"
_OF_ITS_OWN = {-1: "a single channel, and one always stays", -2: _NO_CHANNELS}


@dataclass(frozen=True)
class Held:
    """Parameters that stay for one reason: how many, their share of all, the tensors and the places."""

    why: str
    parameters: int
    share: float
    states: tuple[str, ...]
    places: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For report.json: the first tensors and places, and how many tensors there are."""
        return {
            "why": self.why,
            "parameters": self.parameters,
            "share": self.share,
            "tensors": len(self.states),
            "states": list(self.states[:8]),
            "places": list(self.places[:8]),
        }


@dataclass(frozen=True)
class Reach:
    """Parameters in all, how many of them lie in groups that may be cut, and why the rest does not."""

    parameters: int
    cuttable: int
    held: tuple[Held, ...]  # the largest first

    @property
    def share(self) -> float:
        """Share of the parameters that lies in groups that may be cut, in [0, 1]."""
        return self.cuttable / self.parameters if self.parameters else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For report.json and `inspect --json`."""
        return {"share": self.share, "held": [h.as_dict() for h in self.held]}


def reach(coupling: Coupling) -> Reach:
    """What of the traced network's parameters may be cut. Tied parameters count once."""
    graph = coupling.graph
    free = _free(coupling)
    reasons = _Reasons(coupling)
    counts: Counter[str] = Counter()
    states: dict[str, list[str]] = defaultdict(list)
    places: dict[str, dict[str, None]] = defaultdict(dict)
    positions = _positions(coupling)
    total = 0
    for value in dict.fromkeys(v for n, v in graph.state.items() if n in graph.parameters):
        total += prod(value.shape)
        if 0 in value.shape:
            continue
        for which, count in _held(coupling, value, free, reasons, positions[value.state[0]]):
            why, where = reasons.said(which) if value in coupling.dims else (_UNREAD, ())
            counts[why] += count
            states[why].append(value.state[0])
            places[why].update(dict.fromkeys(where))
    held = tuple(
        Held(why, n, n / total, tuple(dict.fromkeys(states[why])), tuple(places[why]))
        for why, n in counts.most_common()
    )
    return Reach(total, total - sum(counts.values()), held)


def _free(coupling: Coupling) -> Mask:
    """Classes that some group which may be cut removes."""
    atoms = [g.atoms for g in coupling.groups if g.why_not is None]
    return coupling.removed(np.concatenate([np.zeros(0, np.int64), *atoms]))


def _positions(coupling: Coupling) -> dict[str, set[int]]:
    """Dimensions of state tensors that every op only reads by position."""
    read: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    for use in coupling.uses:
        read[use.role == "opaque"].add((use.state, use.dim))
    found: dict[str, set[int]] = defaultdict(set)
    for state, dim in read[True] - read[False]:
        found[state].add(dim)
    return found


Which = frozenset[int]  # indices of reasons; negative ones are _Reasons's own


class _Reasons:
    """Which reasons keep a class."""

    def __init__(self, coupling: Coupling) -> None:
        self.coupling = coupling
        self.classes = coupling.classes
        told = [(self._text(why), self._where(why)) for why in self.classes.reasons]
        first = {one: i for i, one in reversed(list(enumerate(told)))}
        self.same = [first[one] for one in told]  # reasons that read alike are one
        self.single = {int(g.atoms[0]) for g in coupling.groups if g.size == 1}

    def of(self, labels: NDArray[np.int64]) -> Counter[Which]:
        """How many of these classes are kept by which reasons."""
        unique, times = np.unique(labels, return_counts=True)
        found: Counter[Which] = Counter()
        own = self.classes.frozen[unique]
        for why in distinct(own[own >= 0]).tolist():
            found[frozenset([self.same[why]])] += int(times[own == why].sum())
        rest, times = unique[own < 0], times[own < 0]
        if len(rest):
            reach = self.classes.atoms_of(np.arange(len(rest)), rest, len(rest))
            for k, count in enumerate(times.tolist()):
                atoms = reach.indices[reach.indptr[k] : reach.indptr[k + 1]]
                found[frozenset(self._of_atom(int(a)) for a in atoms)] += count
        return found

    def _of_atom(self, atom: int) -> int:
        why = int(self.classes.frozen[atom])
        return self.same[why] if why >= 0 else -1 if atom in self.single else -2

    def _text(self, why: Why) -> str:
        """The reason, with the op that gave it where it does not name one."""
        ops = [self.coupling.graph.nodes[i].op for i in _places(why)]
        more = ", ".join(dict.fromkeys(op for op in ops if op not in why.text))
        return f"{why.text} ({more})" if more else why.text

    def _where(self, why: Why) -> tuple[str, ...]:
        return tuple(self.coupling.place(i) for i in _places(why))

    def said(self, which: Which) -> tuple[str, tuple[str, ...]]:
        """The reasons in words, each once, and their places."""
        own = [self.classes.reasons[i] for i in sorted(which) if i >= 0]
        words = [self._text(why) for why in own]
        words += [_OF_ITS_OWN[i] for i in sorted(which) if i < 0]
        places = dict.fromkeys(place for why in own for place in self._where(why))
        return "; ".join(dict.fromkeys(words)) or _NO_CHANNELS, tuple(places)


def _places(why: Why) -> list[int]:
    """The nodes that a reason speaks of."""
    return [i for i in (why.where, why.other) if i >= 0]


def _held(
    coupling: Coupling, value: Any, free: Mask, reasons: _Reasons, positions: set[int]
) -> Iterator[tuple[Which, int]]:
    """(reasons, elements) of a tensor's part that stays; nothing where some dimension goes whole."""
    dims = coupling.dims.get(value)
    if dims is None:
        yield frozenset(), prod(value.shape)
        return
    by_dim = [_by_reason(coupling, dim, free, reasons) for dim in dims]
    if any(which for d, counts in enumerate(by_dim) for which in counts if d not in positions):
        for d in positions:  # no width to begin with: a kernel's extents, the rows of a table
            by_dim[d] = Counter({frozenset(): sum(by_dim[d].values())})
    for parts in product(*(counts.items() for counts in by_dim)):
        count = prod(n for _, n in parts)
        if count:
            yield frozenset().union(*(w for w, _ in parts)), count


def _by_reason(coupling: Coupling, dim: Dim, free: Mask, reasons: _Reasons) -> Counter[Which]:
    """Positions of a dimension that stay, by reasons; opaque extents have none."""
    out: Counter[Which] = Counter({frozenset(): 1})
    for leaf in dim:
        found: Counter[Which] = Counter()
        if leaf.ids is None:
            found[frozenset()] = leaf.size
        else:
            labels = coupling.classes.label[leaf.ids]
            found = reasons.of(labels[~free[labels]])
        merged: Counter[Which] = Counter()
        for (a, n), (b, m) in product(out.items(), found.items()):
            merged[a | b] += n * m
        out = merged
    return out
