"""Comparisons of a model with its cut copy, one by one, and what several say together: other weights, other paths."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surgeon.choices import Follow
from surgeon.compare import compare, equal, in_range, nearest
from surgeon.errors import BadInput, CheckFailed, SurgeonError, Unproven
from surgeon.failure import failure
from surgeon.graph import Forced, Graph, Path, Reading
from surgeon.known import Known
from surgeon.masked import Masked
from surgeon.noise import Indexed, indexed
from surgeon.plan import Keep, Plan
from surgeon.reached import Reached
from surgeon.running import as_dtype, run
from surgeon.shake import carry_widely, follow, strange_weight
from surgeon.still import seen_drawing
from surgeon.trace.decided import by_code
from surgeon.trace.decisions import Decisions, Number, hopeless, most_ops, most_paths, others
from surgeon.trace.draw import DRAWS, USUAL, shake
from surgeon.trace.inputs import Inputs
from surgeon.trace.paths import unseen_sides
from surgeon.trace.program import Program
from surgeon.trace.record import record
from surgeon.widths import cast, own_dtype

_PATHS = 8  # other paths, where a forward has many ops
_DRAWS = 48  # random weights that are tried where cut tensors are not reached


@dataclass(frozen=True)
class Case:
    """What is to be proven: a model, its cut copy, the plan that one is made of the other by, and inputs."""

    model: nn.Module
    slim: nn.Module
    plan: Plan
    inputs: Inputs
    recorded: Graph | None = None  # of the model, where there is one

    @cached_property
    def given(self) -> Indexed:
        """Inputs that stay as they are given."""
        return indexed(self.model, self.inputs)

    @cached_property
    def graph(self) -> Graph:
        """The model's."""
        return record(self.model, self.inputs) if self.recorded is None else self.recorded

    @cached_property
    def unseen(self) -> tuple[Path, ...]:
        """Paths that a graph without numbers does not have."""
        return unseen_sides(self.model, self.inputs)


class NotDeterministic(BadInput):
    """The original gives other outputs from run to run."""


class CutFails(BadInput):
    """The cut model's own error, on inputs that the original takes; `path` as CheckFailed's."""

    path: Path = ()


class NothingFinite(Exception):
    """All outputs are NaN or infinite."""


@dataclass(frozen=True)
class Proof:
    """One comparison, or several joined. `got` are the cut model's outputs, `missing` the cut tensors that no run reached (None: not
    yet looked at), `read` the numbers that Python read, by place. `strict`: without those missing nothing is proven. Where
    only shapes tell that something may be skipped, they may be what the eval forward never runs (auxiliary heads)."""

    error: float = 0.0
    ops: int = 0
    got: Sequence[Tensor] = ()
    missing: frozenset[str] | None = None
    read: Mapping[Reading, Number] = field(default_factory=dict)
    strict: bool = False

    def joined(self, other: Proof) -> Proof:
        """Both."""
        missing = other.missing if self.missing is None else self.missing & (other.missing or set())
        error, strict = max(self.error, other.error), self.strict or other.strict
        return replace(other, error=error, missing=missing, strict=strict)


def other_sides(pair: Pair, proof: Proof) -> Proof:
    """With the model's own weights, and the other sides of decisions that it takes by its data: of each truth, of numbers
    (those first that lead to something new), and the side that the inputs as given take."""
    graph = pair.case.graph if proof.read else None
    if graph is None:
        return proof
    if graph.on_meta:
        one_sided = isinstance(pair.case.slim, Program)  # as it was captured
        return proof if one_sided else _along(pair, proof, pair.case.unseen)
    lead, fixed = {path[0].at for path in graph.turns}, by_code(graph)
    read = {at: number for at, number in proof.read.items() if at.line not in fixed}
    sides = sorted(others(read), key=lambda x: not isinstance(x.number, bool) and x.at not in lead)
    proof = _as_given(pair, proof, graph.reads)
    paths = [*((x,) for x in sides), *(path for path in graph.turns if len(path) > 1)]
    return _along(pair, proof, [path for path in paths if not hopeless(path, graph.dead_ends)])


def _as_given(pair: Pair, proof: Proof, reads: Path) -> Proof:
    """Along the path that the inputs as given take: with what they read on noise, else on them."""
    if all(proof.read.get(forced.at) == forced.number for forced in reads):
        return proof
    try:
        return proof.joined(pair.prove(reads))
    except (_NoPath, NothingFinite):
        own = pair.case.inputs.map(lambda t: cast(t, pair.dtype))
        with suppress(NothingFinite):
            return proof.joined(replace(pair, inputs=own).prove())
    return proof


def _along(pair: Pair, proof: Proof, paths: Sequence[Path]) -> Proof:
    known, most = Known(), most_paths(proof.ops, _PATHS)
    for path in paths[:most]:
        with suppress(_NoPath, NothingFinite), known:
            proof = proof.joined(pair.prove(path, most=most_ops(proof.ops)))
    return proof


def on_random(pair: Pair, proof: Proof) -> Proof:
    """With random weights as well: once, or where a cut tensor was not reached as long as further ones are.

    An expert gets tokens with some weights alone, so that each draw may reach a few of many.
    """
    if not proof.missing:
        return proof.joined(pair.prove(draw=USUAL))
    found = vain = 0
    likely = (USUAL, *(draw for draw in DRAWS if draw != USUAL))
    for draw in (*likely, *((USUAL[0], seed) for seed in range(len(DRAWS), _DRAWS))):
        if not proof.missing or vain == len(DRAWS) + found:
            break
        before = proof.missing
        try:
            proof = proof.joined(pair.prove(draw=draw))
        except NothingFinite:  # weights that blow up; others may not
            if not proof.ops:
                raise
        if proof.missing != before:
            found, vain = found + 1, 0
        else:
            vain += 1
    return proof


class _NoPath(Exception):
    """The original cannot take this path."""


class _Fused(Exception):
    """What went wrong with attention as one op is asked again of its plain ops."""


@dataclass(frozen=True)
class _Sides:
    """What one comparison runs: copies of the model and of its cut copy, what is masked of the first, and the mode that does it."""

    twin: nn.Module
    small: nn.Module
    keep: Keep
    masked: Masked


@dataclass(frozen=True)
class Pair:
    """A model and its cut copy, to be compared in one dtype, within a tolerance. `plainly` holds something once attention as one
    op did not do."""

    case: Case
    inputs: Inputs
    dtype: torch.dtype | None
    tolerance: float
    plainly: list[bool] = field(default_factory=list)

    @property
    def stranger(self) -> str | None:
        """The first weight of the cut model that is not the kept part of the original's."""
        models = as_dtype(self.case.model, self.dtype), as_dtype(self.case.slim, self.dtype)
        rounding = max(1e-6, torch.finfo(own_dtype(self.case.model)).eps)
        return strange_weight(*models, self.case.plan, rounding)

    def prove(
        self, path: Path = (), draw: tuple[float, int] | None = None, most: int | None = None
    ) -> Proof:
        """One comparison; CheckFailed above the tolerance.

        path: numbers that are others than those that the model reads. draw: gain and seed of random weights, instead of the model's own. most: ops of a path, beyond which it is none.
        """
        if self.dtype is torch.float64 and not self.plainly:
            sides = self._sides(draw, most)
            try:
                return self._prove(sides, path, fused=True)
            except (SurgeonError, NothingFinite, _NoPath, _Fused):
                if not sides.masked.fused:
                    raise
            del sides  # copies of both models
            self.plainly.append(True)
        return self._prove(self._sides(draw, most), path, fused=False)

    def _sides(self, draw: tuple[float, int] | None, most: int | None) -> _Sides:
        twin, small = as_dtype(self.case.model, self.dtype), as_dtype(self.case.slim, self.dtype)
        if draw is not None:
            shake(twin, draw[1], draw[0])
            follow(small, twin, self.case.plan)
        same = self.case.plan.carries is not None and draw is None
        if same and self.dtype is torch.float64:
            carry_widely(small, twin, self.case.plan, torch.finfo(own_dtype(self.case.model)).eps)
        keep = {} if same else self.case.plan.keep
        masked = Masked(twin, keep, most=most)
        masked.reached = Reached(twin, self.case.plan.keep)
        return _Sides(twin, small, keep, masked)

    def _prove(self, sides: _Sides, path: Path, *, fused: bool) -> Proof:
        twin, small, masked = sides.twin, sides.small, sides.masked
        decisions = Decisions(path)
        try:
            with decisions, masked.reached.watching():
                want = run(twin, self.inputs, masked, fused)
                masked.masks.refuse_told(want)
        except BadInput:
            if not path:
                raise
            raise _NoPath from None
        try:
            error, got = self._error(masked, small, want, fused)
            if not error <= self.tolerance:
                if fused and masked.fused:
                    raise _Fused
                _same_twice(twin, self.inputs)
                told = self.case.plan, sides.keep, path
                found = error, self.tolerance
                raise failure(twin, small, told, self.inputs, found)
        except (CheckFailed, CutFails) as wrong:
            if fused and masked.fused:
                raise
            _same_twice(twin, self.inputs)  # what is drawn may be how much comes out
            wrong.path = tuple(Forced(*read) for read in decisions.read.items())
            raise
        # a forward that reads no number, and feeds all of its modules, is the same each time
        depends = bool(decisions.read) or masked.reached.starved
        missing = frozenset(masked.reached.missing if depends or masked.counted else ())
        return Proof(error, masked.ops, got, missing, decisions.read, depends)

    def _error(
        self, masked: Masked, small: nn.Module, want: list[Tensor], fused: bool
    ) -> tuple[float, list[Tensor]]:
        """Of the outputs, and of what the network's decisions were made on; the cut model's outputs."""
        following = Follow(masked.choices)
        try:
            got = run(small, self.inputs, following, fused)
        except BadInput as error:
            if error.__cause__ is None:  # not its forward's, but what a program of ours refuses
                raise
            raise CutFails(error.message, error.hint) from error
        largest = torch.finfo(own_dtype(self.case.model)).max
        want, got = ([in_range(t, largest) for t in side] for side in (want, got))
        made_on = [(in_range(a, largest), in_range(b, largest)) for a, b in following.pairs]
        seen = [t for t in (*want, *(a for a, _ in made_on)) if t.numel()]
        if not seen:
            raise Unproven(
                "cannot be proven: its outputs are empty", "give inputs on which it finds something"
            )
        errors = [compare(want, got), _decided_on(made_on, self.case.plan.factors)]
        error = max(errors) if all(e == e for e in errors) else float("nan")
        if error == error and not any(bool(t.isfinite().any()) for t in seen):
            raise NothingFinite
        return error, got


def _same_twice(model: nn.Module, inputs: Inputs) -> None:
    """Raise NotDeterministic where two runs differ, or where the next might: something is drawn, and not held still."""
    before = _states()
    a, drawn = seen_drawing(lambda: run(model, inputs))
    if drawn or before != _states():
        raise NotDeterministic(
            "the model is not deterministic in eval mode: it draws random numbers, torch's, Python's or numpy's",
            "switch its randomness off in eval mode; no cut of it can be proven",
        )
    for i, (x, y) in enumerate(zip_longest(a, run(model, inputs))):
        if x is None or y is None or not equal(x, y):
            raise NotDeterministic(
                f"the model is not deterministic in eval mode: output {i} changes from run to run",
                "switch its randomness off in eval mode; no cut of it can be proven",
            )


def _states() -> tuple[Any, ...]:
    """Where the random numbers of Python and numpy stand."""
    _, keys, place, *_ = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), place


def _decided_on(pairs: Sequence[tuple[Tensor, Tensor]], factors: Sequence[float]) -> float:
    """Worst difference of the values that the network's decisions were made on, or that nobody read: these may lie
    between a weight that took up a factor and what evens it out."""
    return compare([a for a, _ in pairs], [nearest(a, b, factors) for a, b in pairs])
