"""The oracle: the user's own forward with the removed channels masked, against the cut model.

It reads the Plan, the rules' notation and nothing of coupling or cutting. Every tensor of the
original carries a mask of the elements that the cut model does not have: the Plan says it for the
state, movement ops carry it along *by running on it*, compute ops by their notation. Masked elements
are zero; an op that mixes over a masked axis is run on the kept elements only. What comes out must be
what the cut model computes, relative to the output's own range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.choices import Follow
from surgeon.compare import carried, compare, equal, is_number, nearest
from surgeon.errors import BadInput, CheckFailed, Unproven
from surgeon.failure import failure
from surgeon.graph import Graph
from surgeon.known import Known
from surgeon.masked import Masked
from surgeon.noise import flipped, indexed, noisy
from surgeon.plan import Plan
from surgeon.reached import Reached
from surgeon.running import as_dtype, run
from surgeon.shake import carry_widely, follow, strange_weight
from surgeon.still import Draw, held_still
from surgeon.trace.decisions import Decisions, Forced, Number, others
from surgeon.trace.draw import DRAWS, USUAL, shake
from surgeon.trace.folding import ready
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record_as
from surgeon.trace.remembered import forgotten
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped
from surgeon.widths import cast, floats_as, own_dtype

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class CheckResult:
    """What the oracle found: the worst error over all outputs, relative to that output's range."""

    error: float
    tolerance: float
    dtype: str
    outputs: int
    ops: int
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {**vars(self), "notes": list(self.notes), "proven": True}


def check(model: nn.Module, slim: nn.Module, plan: Plan, inputs: Any, seed: int = 0) -> CheckResult:
    """Prove that `slim` computes what `model` computes with the plan's channels masked; where the plan
    says that they are dead (`Plan.carries`), what it computes with nothing masked.

    inputs: a tensor, a tuple of arguments, a mapping of keywords, or `Inputs`.
    Float inputs are replaced by noise of their shape, integer ones are used as they are. Runs in
    float64 where both models allow it; random numbers that the forward draws are held still. Raises
    CheckFailed naming the first node that differs, BadInput where the model fails in forward or is not
    deterministic even so.
    """
    original, slim = unwrapped(model), unwrapped(slim)
    inputs = Inputs.of(inputs)
    _has_values(original, slim)
    model = ready(original).model
    if model is not original:
        _same_function(original, model, noisy(inputs, seed, None, indexed(model, inputs)))
    model, slim = forgotten(model, inputs), forgotten(slim, inputs)
    try:
        return _in_float64(model, slim, plan, inputs, seed)
    except NotDeterministic:
        result = _held(model, slim, plan, inputs, seed)
    said = "it draws random numbers in eval mode: compared with the same ones in both"
    return replace(result, notes=(*result.notes, said))


def _held(model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs, seed: int) -> CheckResult:
    """With random numbers held still: seeded where both draw as many, so that what is decided by them is no tie.

    Where the copy takes the first few of as many numbers, only one number for all says that it may.
    """
    alike = _drawn(model, inputs, seed) & _drawn(slim, inputs, seed)
    if alike:
        with suppress(CheckFailed, Unproven), held_still(alike):
            return _in_float64(model, slim, plan, inputs, seed)
    with held_still():
        return _in_float64(model, slim, plan, inputs, seed)


def _drawn(model: nn.Module, inputs: Inputs, seed: int) -> frozenset[Draw]:
    """What a forward draws; as far as it comes, where it fails."""
    with held_still() as held, suppress(BadInput):
        run(as_dtype(model, None), noisy(inputs, seed, None, indexed(model, inputs)))
    return frozenset(held.drawn)


def _in_float64(
    model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs, seed: int
) -> CheckResult:
    """In float64, or where that does not run in each tensor's own precision."""
    try:
        return _on_noise(model, slim, plan, inputs, (torch.float64, seed))
    except NotDeterministic:
        raise
    except (RuntimeError, TypeError, BadInput) as error:
        try:
            result = _on_noise(model, slim, plan, inputs, (None, seed))
        except _CutFails as fails:
            why = fails.message.removeprefix("the model fails in forward: ")
            raise CheckFailed(f"the cut model fails where the original runs: {why}") from fails
        note = f"compared in {result.dtype}: {str(error).splitlines()[0][:120]} in float64"
        return CheckResult(**{**vars(result), "notes": (*result.notes, note)})


def _has_values(*models: nn.Module) -> None:
    for model in models:
        for name, tensor in named_state(model).items():
            if tensor.is_meta:
                raise BadInput(
                    f"nothing can be compared: {name} is on the meta device and has no values",
                    "load the weights first, or leave the check out (check=False)",
                )


def _same_function(original: nn.Module, plain: nn.Module, inputs: Inputs) -> None:
    """The copy with plain weights is what the plan speaks of; it must compute what the original does."""
    error = compare(run(as_dtype(original, None), inputs), run(as_dtype(plain, None), inputs))
    tolerance = TOLERANCE.get(own_dtype(original), 1e-5)
    if not error <= tolerance:
        raise CheckFailed(
            f"weights made plain change the output by {error:.2e} of its range (allowed {tolerance:.0e})",
            "take the parametrization off before cutting",
        )


class NotDeterministic(BadInput):
    """The original gives other outputs from run to run."""


class _CutFails(BadInput):
    """The cut model's own error, on inputs that the original takes."""


class _NothingFinite(Exception):
    """All outputs are NaN or infinite."""


def _on_noise(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    inputs: Inputs,
    how: tuple[torch.dtype | None, int],
) -> CheckResult:
    """On noise; on the inputs as they are where noise is outside what the network takes (a log).

    Tokens that are all the same hide attention, whatever is cut of it: then also on tokens that are not.
    The dtype None compares each tensor in its own.
    """
    dtype, seed = how
    noise = noisy(inputs, seed, dtype, indexed(model, inputs))
    told = _told_apart(model, noise, dtype)
    try:
        if told is None:
            return _check(model, slim, plan, noise, dtype)
        with suppress(Unproven):
            _check(model, slim, plan, noise, dtype)
        return _check(model, slim, plan, told, dtype)
    except _NothingFinite:
        own = inputs.map(lambda t: cast(t, dtype))
    try:
        return _check(model, slim, plan, own, dtype)
    except _NothingFinite:
        raise Unproven(
            "cannot be proven: every output is NaN or infinite, on noise and on the inputs given",
            "give inputs on which the network computes something",
        ) from None


def _told_apart(model: nn.Module, inputs: Inputs, dtype: torch.dtype | None) -> Inputs | None:
    """The inputs with zeros and ones in turn where integers [batch, positions] are all the same; None where
    there are none, or the network refuses."""
    changed: list[Tensor] = []

    def varied(t: Tensor) -> Tensor:
        if is_number(t) or t.dtype is torch.bool or t.dim() < 2 or t.shape[-1] < 2:
            return t
        if bool((t != t.flatten()[:1]).any()):
            return t
        changed.append(t)
        turns = torch.arange(t.shape[-1], device=t.device) % 2
        turns[-1] = 1  # other tokens when read backwards
        return turns.to(t.dtype).expand(t.shape).clone()

    told = inputs.map(varied)
    if not changed:
        return None
    try:
        run(as_dtype(model, dtype), told)
    except BadInput:
        return None
    return told


def _check(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    inputs: Inputs,
    dtype: torch.dtype | None,
) -> CheckResult:
    with floats_as(dtype):
        return _compared((model, slim, plan), inputs, dtype)


def _compared(
    what: tuple[nn.Module, nn.Module, Plan],
    inputs: Inputs,
    dtype: torch.dtype | None,
) -> CheckResult:
    model, slim, plan = what
    # weights that took up a factor are rounded to the model's own precision
    own = own_dtype(model)
    tolerance = TOLERANCE.get(own if plan.folds or dtype is None else dtype, 1e-5)
    pair = _Pair(model, slim, plan, inputs, dtype, tolerance)
    stranger = pair.stranger
    if tolerance > 1e-4 and stranger is not None:
        raise Unproven(
            f"cannot be proven in {dtype or own}: {stranger} is not the kept part of the original's, and at "
            "this precision outputs alone cannot tell",
            "check it in a wider type: model.float()",
        )
    try:
        proof = pair.prove()
        proof = _other_paths(pair, proof, [x for x in others(proof.read) if _is_truth(x)])
        # else random weights are asked in any case
        others_say = not (proof.missing and proof.strict)
        share = carried(proof.got, _on_others(as_dtype(slim, dtype), inputs)) if others_say else 0.0
    except _NothingFinite:  # broken weights that stay; random ones can still tell
        proof, share = _Proof(), 0.0
    notes: tuple[str, ...] = ()
    if stranger is not None and stranger in (proof.missing or ()):
        raise Unproven(
            f"cannot be proven: {stranger} is not the kept part of the original's, and no run reached it",
            "give inputs on which it runs",
        )
    if stranger is not None and share < _CARRIED:
        raise Unproven(
            f"cannot be proven: {stranger} is not the kept part of the original's, and the "
            "outputs hardly depend on the inputs, so that they cannot tell",
            "give inputs that the outputs depend on (other token ids, no empty mask)",
        )
    if stranger is None and (share < _CARRIED or proof.missing):
        proof = _on_random(pair, proof)
        hidden = "its own weights hide most of the network: also compared with random ones"
        notes = (hidden if share < _CARRIED else "also compared with random weights",)
        if proof.missing:
            numbers = [x for x in others(proof.read) if not _is_truth(x)]
            proof = _other_paths(pair, proof, numbers)
    if proof.missing and proof.strict:
        raise Unproven(
            f"cannot be proven: no run of the network reached {min(proof.missing)}, which was cut",
            "give inputs on which it runs, or keep it whole (--ignore)",
        )
    if proof.missing:
        notes += (f"no run of the check reached {min(proof.missing)}, which was cut",)
    name = str(dtype or own).removeprefix("torch.")
    return CheckResult(proof.error, tolerance, name, len(proof.got), proof.ops, notes)


def _on_random(pair: _Pair, proof: _Proof) -> _Proof:
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
        except _NothingFinite:  # weights that blow up; others may not
            if not proof.ops:
                raise
        if proof.missing != before:
            found, vain = found + 1, 0
        else:
            vain += 1
    return proof


@dataclass(frozen=True)
class _Proof:
    """One comparison, or several joined. `got` are the cut model's outputs, `missing` the cut tensors that no run reached (None: not
    yet looked at), `read` the numbers that Python read, by place. `strict`: without those missing nothing is proven. Where
    only shapes tell that something may be skipped, they may be what the eval forward never runs (auxiliary heads)."""

    error: float = 0.0
    ops: int = 0
    got: Sequence[Tensor] = ()
    missing: frozenset[str] | None = None
    read: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    strict: bool = False

    def joined(self, other: _Proof) -> _Proof:
        """Both."""
        missing = other.missing if self.missing is None else self.missing & (other.missing or set())
        error, strict = max(self.error, other.error), self.strict or other.strict
        return replace(other, error=error, missing=missing, strict=strict)


def _other_paths(pair: _Pair, proof: _Proof, paths: Sequence[Forced]) -> _Proof:
    """With the model's own weights, and the other side of decisions that it takes by its data: of `if`s, and of other
    numbers where something was not reached."""
    if not paths or not _depends_on_data(pair.model, pair.inputs):
        return proof
    known = Known()
    for forced in paths[:_PATHS]:
        with suppress(_NoPath, _NothingFinite), known:
            proof = proof.joined(pair.prove(forced))
    return proof


def _is_truth(forced: Forced) -> bool:
    return isinstance(forced.number, bool)


_PATHS = 8
_DRAWS = 48  # random weights that are tried where cut tensors are not reached


def _depends_on_data(model: nn.Module, inputs: Inputs) -> bool:
    """Whether its Python looks at real numbers, which tensors without values do not have."""
    try:
        record_as(model, inputs, Graph(on_meta=True))
    except BadInput:
        return True
    return False


_CARRIED = 1e-4  # of an output's range must depend on the input, or the weights hide the network


def _on_others(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The outputs on different inputs of the same kind; vectors stay where the network refuses others
    (the lengths of sequences, in order)."""
    given = indexed(model, inputs)
    try:
        return run(model, flipped(inputs, 1, given))
    except BadInput:
        return run(model, flipped(inputs, 2, given))


class _NoPath(Exception):
    """The original cannot take this path."""


@dataclass(frozen=True)
class _Pair:
    """A model and its cut copy, to be compared in one dtype, within a tolerance."""

    model: nn.Module
    slim: nn.Module
    plan: Plan
    inputs: Inputs
    dtype: torch.dtype | None
    tolerance: float

    @property
    def stranger(self) -> str | None:
        """The first weight of the cut model that is not the kept part of the original's."""
        models = as_dtype(self.model, self.dtype), as_dtype(self.slim, self.dtype)
        rounding = max(1e-6, torch.finfo(own_dtype(self.model)).eps)
        return strange_weight(*models, self.plan, rounding)

    def prove(self, forced: Forced | None = None, draw: tuple[float, int] | None = None) -> _Proof:
        """One comparison; CheckFailed above the tolerance.

        forced: another path. draw: gain and seed of random weights, instead of the model's own.
        """
        twin, small = as_dtype(self.model, self.dtype), as_dtype(self.slim, self.dtype)
        if draw is not None:
            shake(twin, draw[1], draw[0])
            follow(small, twin, self.plan)
        same = self.plan.carries is not None and draw is None
        if same and self.dtype is torch.float64:
            carry_widely(small, twin, self.plan, torch.finfo(own_dtype(self.model)).eps)
        masked, decisions = Masked(twin, {} if same else self.plan.keep), Decisions(forced)
        masked.reached = Reached(twin, self.plan.keep)
        try:
            with decisions, masked.reached.watching():
                want = run(twin, self.inputs, masked)
                masked.masks.refuse_told(want)
        except BadInput:
            if forced is None:
                raise
            raise _NoPath from None
        try:
            error, got = self._error(masked, small, want)
        except (CheckFailed, _CutFails):  # what is drawn may be how much comes out
            _same_twice(run(twin, self.inputs), run(twin, self.inputs))
            raise
        if not error <= self.tolerance:
            _same_twice(run(twin, self.inputs), run(twin, self.inputs))
            keep = {} if same else self.plan.keep
            raise failure(twin, small, (self.plan, keep), self.inputs, (error, self.tolerance))
        # a forward that reads no number, and feeds all of its modules, is the same each time
        depends = bool(decisions.read) or masked.reached.starved
        missing = frozenset(masked.reached.missing if depends or masked.counted else ())
        return _Proof(error, masked.ops, got, missing, decisions.read, depends)

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
            raise _CutFails(error.message, error.hint) from error
        seen = [t for t in (*want, *(a for a, _ in following.pairs)) if t.numel()]
        if not seen:
            raise Unproven(
                "cannot be proven: its outputs are empty", "give inputs on which it finds something"
            )
        errors = [compare(want, got), _decided_on(following, self.plan.factors)]
        error = max(errors) if all(e == e for e in errors) else float("nan")
        if error == error and not any(bool(t.isfinite().any()) for t in seen):
            raise _NothingFinite
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
