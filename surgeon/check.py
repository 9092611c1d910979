"""The oracle: the user's own forward with the removed channels masked, against the cut model.

It reads the Plan, the rules' notation and nothing of coupling or cutting. Every tensor of the
original carries a mask of the elements that the cut model does not have: the Plan says it for the
state, movement ops carry it along *by running on it*, compute ops by their notation. Masked elements
are zero; an op that mixes over a masked axis is run on the kept elements only. What comes out must be
what the cut model computes, relative to the output's own range.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.compare import carried, compare, in_range, is_number
from surgeon.errors import FAILS, BadInput, CheckFailed, Unproven
from surgeon.graph import Graph
from surgeon.noise import flipped, noisy, turned
from surgeon.plan import Plan
from surgeon.proof import (
    Case,
    CutFails,
    NotDeterministic,
    NothingFinite,
    Pair,
    Proof,
    on_random,
    other_sides,
)
from surgeon.running import as_dtype, run
from surgeon.still import Draw, held_still
from surgeon.trace.folding import ready
from surgeon.trace.inputs import Inputs
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


def check(
    model: nn.Module,
    slim: nn.Module,
    plan: Plan,
    inputs: Any,
    seed: int = 0,
    recorded: Graph | None = None,
) -> CheckResult:
    """Prove that `slim` computes what `model` computes with the plan's channels masked; where the plan
    says that they are dead (`Plan.carries`), what it computes with nothing masked.

    inputs: a tensor, a tuple of arguments, a mapping of keywords, or `Inputs`. recorded: the graph of `model`, where
    there is one: whether it looks at data, and the numbers that lead it elsewhere then.
    Float inputs are replaced by noise of their shape, integer ones are used as they are. Runs in
    float64 where both models allow it; random numbers that the forward draws are held still. Raises
    CheckFailed naming the first node that differs, BadInput where the model fails in forward or is not
    deterministic even so.
    """
    original, slim = unwrapped(model), unwrapped(slim)
    inputs = Inputs.of(inputs)
    _has_values(original, slim)
    model = ready(original).model
    case = Case(forgotten(model, inputs), forgotten(slim, inputs), plan, inputs, recorded)
    if model is not original:
        _same_function(original, model, noisy(inputs, seed, None, case.given))
    try:
        return _in_float64(case, seed)
    except NotDeterministic:
        result = _held(case, seed)
    said = "it draws random numbers in eval mode: compared with the same ones in both"
    return replace(result, notes=(*result.notes, said))


def _held(case: Case, seed: int) -> CheckResult:
    """With random numbers held still: seeded where both draw as many, so that what is decided by them is no tie.

    Where the copy takes the first few of as many numbers, only one number for all says that it may.
    """
    alike = _drawn(case.model, case, seed) & _drawn(case.slim, case, seed)
    if alike:
        with suppress(CheckFailed, Unproven), held_still(alike):
            return _in_float64(case, seed)
    with held_still():
        return _in_float64(case, seed)


def _drawn(model: nn.Module, case: Case, seed: int) -> frozenset[Draw]:
    """What a forward draws; as far as it comes, where it fails."""
    with held_still() as held, suppress(BadInput):
        run(as_dtype(model, None), noisy(case.inputs, seed, None, case.given))
    return frozenset(held.drawn)


def _in_float64(case: Case, seed: int) -> CheckResult:
    """In float64, or where that does not run in each tensor's own precision."""
    try:
        return _on_noise(case, torch.float64, seed)
    except NotDeterministic:
        raise
    except (RuntimeError, TypeError, BadInput) as error:
        try:
            result = _on_noise(case, None, seed)
        except CutFails as fails:
            raise _failing(fails) from fails
        except CheckFailed:
            if isinstance(error, CutFails):
                # which says more than how far off it is in single precision
                raise _failing(error) from error
            raise
        note = f"compared in {result.dtype}: {str(error).splitlines()[0][:120]} in float64"
        return CheckResult(**{**vars(result), "notes": (*result.notes, note)})


def _failing(fails: CutFails) -> CheckFailed:
    why = fails.message.removeprefix(FAILS)
    return CheckFailed(f"the cut model fails where the original runs: {why}", path=fails.path)


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


def _on_noise(case: Case, dtype: torch.dtype | None, seed: int) -> CheckResult:
    """On noise; on the inputs as they are where noise is outside what the network takes (a log, or it says so).

    Tokens that are all the same hide attention, whatever is cut of it: then also on tokens that are not.
    The dtype None compares each tensor in its own.
    """
    noise = noisy(case.inputs, seed, dtype, case.given)
    told = _told_apart(case.model, noise, dtype)
    try:
        if told is None:
            return _check(case, noise, dtype)
        with suppress(Unproven):
            _check(case, noise, dtype)
        return _check(case, told, dtype)
    except NothingFinite:
        notes: tuple[str, ...] = ()
    except (NotDeterministic, CutFails):
        raise
    except BadInput as error:
        if not any(is_number(t) for t in case.inputs.tensors):
            raise
        why = error.message.splitlines()[0].removeprefix(FAILS)
        notes = (f"compared on the inputs given: noise is none that the network takes ({why})",)
    own = case.inputs.map(lambda t: cast(t, dtype))
    try:
        result = _check(case, own, dtype)
        return replace(result, notes=(*notes, *result.notes))
    except NothingFinite:
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
    return told if _takes(as_dtype(model, dtype), told) else None


def _check(case: Case, inputs: Inputs, dtype: torch.dtype | None) -> CheckResult:
    with floats_as(dtype, own_dtype(case.model)):
        return _compared(case, inputs, dtype)


def _compared(case: Case, inputs: Inputs, dtype: torch.dtype | None) -> CheckResult:
    # weights that took up a factor are rounded to the model's own precision
    own = own_dtype(case.model)
    tolerance = TOLERANCE.get(own if case.plan.folds or dtype is None else dtype, 1e-5)
    pair = Pair(case, inputs, dtype, tolerance)
    stranger = pair.stranger
    if tolerance > 1e-4 and stranger is not None:
        raise Unproven(
            f"cannot be proven in {dtype or own}: {stranger} is not the kept part of the original's, and at "
            "this precision outputs alone cannot tell",
            "check it in a wider type: model.float()",
        )
    try:
        proof = pair.prove()
        proof = other_sides(pair, proof)
        # else random weights are asked in any case
        others_say = not (proof.missing and proof.strict)
        share = _share(case, proof.got, inputs, dtype) if others_say else 0.0
    except NothingFinite:  # broken weights that stay; random ones can still tell
        proof, share = Proof(), 0.0
    told = share is not None and share >= _CARRIED
    notes: tuple[str, ...] = ()
    if stranger is not None and stranger in (proof.missing or ()):
        raise Unproven(
            f"cannot be proven: {stranger} is not the kept part of the original's, and no run reached it",
            "give inputs on which it runs",
        )
    if stranger is not None and not told:
        why = (
            "the network takes no other inputs"
            if share is None
            else "the outputs hardly depend on the inputs"
        )
        raise Unproven(
            f"cannot be proven: {stranger} is not the kept part of the original's, and {why}, so that they cannot tell",
            "give inputs that the outputs depend on (other token ids, no empty mask)",
        )
    if stranger is None and (not told or proof.missing):
        proof = on_random(pair, proof)
        hidden = share is not None and not told
        notes = (
            "its own weights hide most of the network: also compared with random ones"
            if hidden
            else "also compared with random weights",
        )
        if proof.missing:
            proof = other_sides(pair, proof)
    unseen = proof.missing if proof.missing and proof.strict else frozenset[str]()
    if unseen and (unseen := unseen - case.graph.trained):  # else compared op by op when it was cut
        raise Unproven(
            f"cannot be proven: no run of the network reached {min(unseen)}, which was cut",
            "give inputs on which it runs, or keep it whole (--ignore)",
        )
    if proof.missing:
        notes += (f"no run of the check reached {min(proof.missing)}, which was cut",)
    name = str(dtype or own).removeprefix("torch.")
    return CheckResult(proof.error, tolerance, name, len(proof.got), proof.ops, notes)


_CARRIED = 1e-4  # of an output's range must depend on the input, or the weights hide the network


def _share(
    case: Case, got: Sequence[Tensor], inputs: Inputs, dtype: torch.dtype | None
) -> float | None:
    """How much of its outputs' range the cut model changes on other inputs of the same kind: numbers in reverse order;
    vectors as they are where it refuses those (the lengths of sequences, in order), or other examples first where a place
    means something (a box's corners, a first token). None where it takes none of them. Raises CutFails where the original takes
    what the cut model does not."""
    fused, largest = dtype is torch.float64, torch.finfo(own_dtype(case.model)).max
    for others in (*(flipped(inputs, rank, case.given) for rank in (1, 2)), turned(inputs)):
        try:
            changed = run(as_dtype(case.slim, dtype), others, fused=fused)
            return carried(got, [in_range(t, largest) for t in changed])
        except BadInput as error:
            if _takes(as_dtype(case.model, dtype), others):
                raise CutFails(error.message, error.hint) from error
    return None


def _takes(model: nn.Module, inputs: Inputs) -> bool:
    try:
        run(model, inputs)
    except BadInput:
        return False
    return True
