"""Comparisons of a model with its cut copy, one by one, and what several say together: other weights, other paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest

import torch
from torch import Tensor, nn

from surgeon.choices import Follow
from surgeon.compare import compare, equal, nearest
from surgeon.errors import BadInput, CheckFailed, Unproven
from surgeon.failure import failure
from surgeon.graph import Graph, Path
from surgeon.known import Known
from surgeon.masked import Masked
from surgeon.noise import Indexed, indexed
from surgeon.plan import Plan
from surgeon.reached import Reached
from surgeon.running import as_dtype, run
from surgeon.shake import carry_widely, follow, strange_weight
from surgeon.trace.decisions import Decisions, Number, others
from surgeon.trace.draw import DRAWS, USUAL, shake
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record
from surgeon.widths import own_dtype

_PATHS = 8  # of one kind
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


class NotDeterministic(BadInput):
    """The original gives other outputs from run to run."""


class CutFails(BadInput):
    """The cut model's own error, on inputs that the original takes."""


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
    read: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    strict: bool = False

    def joined(self, other: Proof) -> Proof:
        """Both."""
        missing = other.missing if self.missing is None else self.missing & (other.missing or set())
        error, strict = max(self.error, other.error), self.strict or other.strict
        return replace(other, error=error, missing=missing, strict=strict)


def other_sides(pair: Pair, proof: Proof) -> Proof:
    """With the model's own weights, and the other side of decisions that it takes by its data: of `if`s on truths, and on
    numbers that lead to other lines of code."""
    if not proof.read or pair.case.graph.on_meta:
        return proof
    turns = pair.case.graph.turns
    lead = {path[0].place for path in turns}
    sides = list(others(proof.read))
    proof = _along(pair, proof, [(x,) for x in sides if isinstance(x.number, bool)])
    numbers = [(x,) for x in sides if not isinstance(x.number, bool) and x.place in lead]
    return _along(pair, proof, [*numbers, *(path for path in turns if len(path) > 1)])


def other_numbers(pair: Pair, proof: Proof) -> Proof:
    """With other numbers in the place of all that were read."""
    if not proof.read or pair.case.graph.on_meta:
        return proof
    return _along(pair, proof, [(x,) for x in others(proof.read) if not isinstance(x.number, bool)])


def _along(pair: Pair, proof: Proof, paths: Sequence[Path]) -> Proof:
    known = Known()
    for path in paths[:_PATHS]:
        with suppress(_NoPath, NothingFinite), known:
            proof = proof.joined(pair.prove(path))
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


@dataclass(frozen=True)
class Pair:
    """A model and its cut copy, to be compared in one dtype, within a tolerance."""

    case: Case
    inputs: Inputs
    dtype: torch.dtype | None
    tolerance: float

    @property
    def stranger(self) -> str | None:
        """The first weight of the cut model that is not the kept part of the original's."""
        models = as_dtype(self.case.model, self.dtype), as_dtype(self.case.slim, self.dtype)
        rounding = max(1e-6, torch.finfo(own_dtype(self.case.model)).eps)
        return strange_weight(*models, self.case.plan, rounding)

    def prove(self, path: Path = (), draw: tuple[float, int] | None = None) -> Proof:
        """One comparison; CheckFailed above the tolerance.

        path: numbers that are others than those that the model reads. draw: gain and seed of random weights, instead of the model's own.
        """
        twin, small = as_dtype(self.case.model, self.dtype), as_dtype(self.case.slim, self.dtype)
        if draw is not None:
            shake(twin, draw[1], draw[0])
            follow(small, twin, self.case.plan)
        same = self.case.plan.carries is not None and draw is None
        if same and self.dtype is torch.float64:
            carry_widely(small, twin, self.case.plan, torch.finfo(own_dtype(self.case.model)).eps)
        masked, decisions = Masked(twin, {} if same else self.case.plan.keep), Decisions(path)
        masked.reached = Reached(twin, self.case.plan.keep)
        try:
            with decisions, masked.reached.watching():
                want = run(twin, self.inputs, masked)
                masked.masks.refuse_told(want)
        except BadInput:
            if not path:
                raise
            raise _NoPath from None
        try:
            error, got = self._error(masked, small, want)
        except (CheckFailed, CutFails):  # what is drawn may be how much comes out
            _same_twice(run(twin, self.inputs), run(twin, self.inputs))
            raise
        if not error <= self.tolerance:
            _same_twice(run(twin, self.inputs), run(twin, self.inputs))
            keep = {} if same else self.case.plan.keep
            told, found = (self.case.plan, keep, path), (error, self.tolerance)
            raise failure(twin, small, told, self.inputs, found)
        # a forward that reads no number, and feeds all of its modules, is the same each time
        depends = bool(decisions.read) or masked.reached.starved
        missing = frozenset(masked.reached.missing if depends or masked.counted else ())
        return Proof(error, masked.ops, got, missing, decisions.read, depends)

    def _error(
        self, masked: Masked, small: nn.Module, want: list[Tensor]
    ) -> tuple[float, list[Tensor]]:
        """Of the outputs, and of what the network's decisions were made on; the cut model's outputs."""
        following = Follow(masked.choices)
        try:
            got = run(small, self.inputs, following)
        except BadInput as error:
            if error.__cause__ is None:  # not its forward's, but what a program of ours refuses
                raise
            raise CutFails(error.message, error.hint) from error
        seen = [t for t in (*want, *(a for a, _ in following.pairs)) if t.numel()]
        if not seen:
            raise Unproven(
                "cannot be proven: its outputs are empty", "give inputs on which it finds something"
            )
        errors = [compare(want, got), _decided_on(following, self.case.plan.factors)]
        error = max(errors) if all(e == e for e in errors) else float("nan")
        if error == error and not any(bool(t.isfinite().any()) for t in seen):
            raise NothingFinite
        return error, got


def _same_twice(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    for i, (x, y) in enumerate(zip_longest(a, b)):
        if x is None or y is None or not equal(x, y):
            raise NotDeterministic(
                f"the model is not deterministic in eval mode: output {i} changes from run to run",
                "switch its randomness off in eval mode; no cut of it can be proven",
            )


def _decided_on(follow: Follow, factors: Sequence[float]) -> float:
    """Worst difference of the values that the network's decisions were made on, or that nobody read: these may lie
    between a weight that took up a factor and what evens it out."""
    return compare([a for a, _ in follow.pairs], [nearest(a, b, factors) for a, b in follow.pairs])
