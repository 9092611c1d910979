"""A plan carried out: cut, proven by the oracle, measured."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from surgeon.check import TOLERANCE, CheckResult
from surgeon.check import check as run_check
from surgeon.compare import compare
from surgeon.cut import Cut, NoProgram, NotFollowed, Spared, Terms, as_program, cut, first_unlike
from surgeon.errors import CheckFailed, SurgeonError, Unproven
from surgeon.pipeline.cached import with_cache
from surgeon.pipeline.compared import compared
from surgeon.pipeline.followed import spared
from surgeon.pipeline.result import Result
from surgeon.pipeline.said import instead, refuse_unsaid
from surgeon.pipeline.steps import Steps
from surgeon.pipeline.traced import Traced, refuse_wrong_training
from surgeon.plan import Plan
from surgeon.report.network import network
from surgeon.report.reach import reach
from surgeon.rules import RULES, USER
from surgeon.running import as_dtype, run
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import Program, to_program
from surgeon.widths import cast, floats_as, own_dtype


def carried_out(traced: Traced, given: Inputs, plan: Plan) -> tuple[Cut, Traced]:
    """The cut, and the trace with the inputs that it takes.

    A batch of one was doubled to be traced; a program that has its batch fixed is captured with the one given. Raises Unsaid where
    `traced` asks for one that the network's config says.
    """
    if traced.own is not None and traced.own.done is not None and traced.own.done[0] == plan.keep:
        return traced.own.done[1], traced
    terms = Terms(traced.refusal, partial(spared, traced), instead(traced, plan))
    done = cut(traced.model, traced.inputs, traced.coupling, plan, terms)
    refuse_unsaid(traced, plan, done)
    if not isinstance(done.model, Program) or done.model.takes(given):
        return done, traced
    with suppress(SurgeonError):
        program = as_program(traced.model, given, plan, done.why or "")
        return replace(program, at=done.at), replace(traced, inputs=given)
    return done, traced


def checked(model: nn.Module, traced: Traced, done: Cut, plan: Plan) -> tuple[Cut, CheckResult]:
    """A cut and its proof. A module of which only numbers could tell that it is wrong is cut as a program.

    Raises CheckFailed, as TrainsOtherwise where a module is wrong in train mode alone; NotFollowed where there is no program, or
    one that is wrong before it is cut, and a node where the module may have gone astray.
    """
    try:
        proof = _proven(model, done.model, replace(plan, folds=done.folds), traced)
    except CheckFailed as error:
        if done.way == "program" and (why := _no_program(traced, error)):
            raise NotFollowed(done.why or "", plan, NoProgram(*why), done.at) from error
        if done.certain or done.way != "module" or (error.path and traced.graph.on_meta):
            raise
        why = f"its own forward computes something else: {error.message.splitlines()[0]}"
        if traced.own is not None:
            apart = _astray(traced, done, plan, error, why)
            if spared(traced, apart):
                raise apart from error
        try:
            program = as_program(traced.model, traced.inputs, plan, why)
            return program, _proven(model, program.model, plan, traced)
        except NotFollowed as neither:
            neither.at = first_unlike(done, traced.inputs, traced.coupling, plan, error.path)
            if neither.at is None:
                raise error from None
            neither.disproved = error
            raise
        except SurgeonError:
            raise error from None
    if done.way == "module":
        refuse_wrong_training(traced, plan)
    return done, proof


def _astray(traced: Traced, done: Cut, plan: Plan, error: CheckFailed, why: str) -> NotFollowed:
    """Where a module that the oracle found wrong went astray: where that was doubted before, or else, as only the oracle told,
    at the first op that strictly differs."""
    if done.doubt is not None:
        return NotFollowed(done.doubt, plan, Spared(), done.at)
    at = first_unlike(done, traced.inputs, traced.coupling, plan, error.path)
    apart = NotFollowed(why, plan, Spared(), at)
    apart.disproved = error
    return apart


_WRONG = (
    "torch.export's program of the uncut network computes something else than the network does",
    "see what its forward does differently while it is exported (torch.compiler.is_exporting)",
)
_ONE_SIDE = (
    "torch.export's program takes one side of a decision that other inputs decide otherwise",
    "decide by tensors (torch.where) in forward, so that a program has both sides",
)


def _no_program(traced: Traced, error: CheckFailed) -> tuple[str, str] | None:
    """Why a program that is wrong is none of this network's, whatever is cut."""
    if isinstance(traced.model, Program) or isinstance(error, Unproven):
        return None
    if error.path:
        return _ONE_SIDE
    return _WRONG if _exported_wrong(traced) else None


def _exported_wrong(traced: Traced) -> bool:
    """Whether the program of the uncut network is another function: some forwards branch on being exported."""
    inputs = traced.inputs.map(lambda t: cast(t, torch.float64))
    try:
        models = traced.model, to_program(traced.model, traced.inputs)
        with floats_as(torch.float64, own_dtype(traced.model)):
            want, got = (run(as_dtype(m, torch.float64), inputs) for m in models)
    except SurgeonError:
        return False
    return not compare(want, got) <= TOLERANCE[torch.float64]


def _proven(model: nn.Module, slim: nn.Module, plan: Plan, traced: Traced) -> CheckResult:
    """The oracle on what was just cut: where it differs, nobody but surgeon, or a user's rule, can be wrong."""
    try:
        return run_check(model, slim, plan, traced.inputs, recorded=traced.graph)
    except Unproven as error:
        hint = f"{error.hint}; nothing was written" if error.hint else "nothing was written"
        raise Unproven(error.message, hint) from error
    except CheckFailed as error:
        theirs = any(r.family == USER for r in RULES.values())
        hint = "this is a bug in surgeon: nothing was written"
        if error.path:
            hint = (
                f"nothing was written; where a width decides what runs ({error.path[0].at.line} and what follows it), keep"
                " that whole (--ignore), else this is a bug in surgeon"
            )
        if theirs:
            hint = "see that your rules say what the ops compute; if they do, " + hint
        raise CheckFailed(error.message, hint, error.path) from error


def finished(
    given: tuple[nn.Module, Inputs, Traced],
    done: Cut,
    plan: Plan,
    notes: tuple[str, ...],
    run: Steps,
    wanted: tuple[bool, bool],
) -> Result:
    """The result; wanted: whether it is to be proven, and to be measured."""
    model, inputs, traced = given
    proof = measured = None
    if wanted[0] or not done.certain:
        done, proof = run("check", lambda: checked(model, traced, done, plan))
        notes += proof.notes + with_cache(model, done.model, inputs, traced.coupling, plan)
    if isinstance(done.model, Program) and not done.model.takes(inputs):
        inputs = traced.inputs
    plan, notes = replace(plan, folds=done.folds), notes + done.notes
    if wanted[1]:
        measured, said = run("measure", lambda: compared(model, done.model, plan, inputs))
        notes += said
    found = reach(traced.coupling) if any(wanted) else None
    return Result(
        *(done.model, plan, done.way, inputs, done.why, proof, measured, found, notes),
        seconds=run.seconds,
        network=network(traced.coupling, plan),
    )
