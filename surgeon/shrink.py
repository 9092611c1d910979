"""The whole pipeline in one call: trace, couple, score, plan, cut, check, measure."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from torch import nn
from typing_extensions import Unpack

from surgeon.budget import Limit, Request, choose
from surgeon.budget.choose import Choice
from surgeon.budget.request import kinds
from surgeon.check import CheckResult
from surgeon.check import check as run_check
from surgeon.couple import Coupling, couple
from surgeon.cut import Cut, as_program, cut
from surgeon.errors import BadInput, CheckFailed, SurgeonError, Unproven
from surgeon.graph import Graph
from surgeon.heal.recover import Recovery, recover
from surgeon.heal.study import joined, study
from surgeon.measure.pair import BeforeAfter, before_after
from surgeon.plan import Plan
from surgeon.planning import (
    make_plan,
    model_facts,
    recounted,
    refuse_other_model,
    refuse_other_shapes,
)
from surgeon.report.reach import Reach, reach
from surgeon.rules import RULES, USER
from surgeon.score import (
    Criterion,
    Evidence,
    Material,
    Original,
    known,
    refuse_without_data,
    scores_of,
)
from surgeon.score.loss import Loss
from surgeon.sparse.dead import Dead
from surgeon.sparse.plan import dead_plan, said_of
from surgeon.teach import without_op
from surgeon.trace.called import calls
from surgeon.trace.folding import read_state, ready
from surgeon.trace.inputs import Inputs
from surgeon.trace.observe import observe
from surgeon.trace.program import Program
from surgeon.trace.record import record
from surgeon.trace.recorded import describe, recorded
from surgeon.trace.tensors import named_state
from surgeon.trace.wrappers import unwrapped

Progress = Callable[[str], None]


class Options(TypedDict, total=False):
    """Keyword options of `shrink`; see `surgeon.budget.Request` for what each means."""

    ratio_for: Mapping[str, float]
    ignore: Sequence[str]
    criterion: str | Criterion
    by: str
    reduce: str
    normalise: str
    normalize: str
    data: Iterable[Any]
    labelled: bool
    loss: Loss
    recover: Sequence[str]
    scope: str
    round_to: int | str | None
    remove: Mapping[str, Sequence[int]]
    max_flops: str | float | None
    max_params: str | float | None
    cut: str | Sequence[str]
    equal: str | Sequence[str]
    seed: int
    dead: bool


@dataclass(frozen=True)
class Result:
    """What `shrink` gives back: a slim model in eval mode, its plan, and how it was proven."""

    model: nn.Module
    plan: Plan
    way: str
    inputs: Inputs
    why: str | None = None
    check: CheckResult | None = None
    measured: BeforeAfter | None = None
    reach: Reach | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    dead: Dead | None = None
    recovery: Recovery | None = None

    @property
    def report(self) -> dict[str, Any]:
        """Everything that report.json holds."""
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what was asked, what was reached, every group, the check, the measurements."""
        plan = self.plan.to_json()
        return {
            "model": plan["model"],
            "request": plan["request"],
            "reached": self.reached(),
            "way": self.way,
            "why": self.why,
            "check": self.check.as_dict() if self.check else None,
            "measured": self.measured.as_dict() if self.measured else None,
            "reach": self.reach.as_dict() if self.reach else None,
            "groups": plan["groups"],
            "left": plan["left"],
            **({"dead": self.dead.as_dict()} if self.dead else {}),
            **({"recovery": self.recovery.as_dict()} if self.recovery else {}),
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }

    def reached(self) -> dict[str, float]:
        """Shares removed: of channels in groups that were cut, of parameters and FLOPs where measured."""
        total = sum(g.size for g in self.plan.groups)
        out = {"channels": self.plan.removed / total if total else 0.0}
        if self.measured:
            before, after = self.measured.before, self.measured.after
            out["params"] = 1 - after.params / max(before.params, 1)
            out["flops"] = 1 - after.flops / max(before.flops, 1)
        return out

    def summary(self) -> str:
        """A few lines for people."""
        from surgeon.report.text import summary

        return summary(self)


@dataclass(frozen=True)
class Traced:
    """A traced model: `surgeon.trace(model, inputs)`. Look before you cut."""

    graph: Graph
    coupling: Coupling
    inputs: Inputs  # what it was traced with: a batch of one is doubled
    model: nn.Module  # what was traced: the caller's own, or a copy with plain weights
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> Any:
        """Every group of channels that must be cut together, in order of first use."""
        return self.coupling.groups

    @property
    def unknown(self) -> tuple[str, ...]:
        """Ops that have no channel rule: what reaches them stays."""
        return tuple(sorted({node.op for node in self.coupling.unknown}))


@dataclass(frozen=True)
class Proposal:
    """A plan before it is carried out, with the traced model that it was made for."""

    traced: Traced
    plan: Plan
    notes: tuple[str, ...]
    dead: Dead | None = None


def trace(model: nn.Module, example_inputs: Any) -> Traced:
    """Record one forward of `model` and couple its channels; nothing is changed.

    example_inputs: a tensor, a tuple of what `forward` takes, a mapping of its keywords, or `Inputs`
    for both; batch 2 or more is best, since an extent of one says nothing about what it is. Raises
    BadInput where forward fails.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"a model is an nn.Module, not {type(model).__name__}",
            "surgeon.files.open_model opens files",
        )
    usable, given = ready(model), Inputs.of(example_inputs)
    model = usable.model
    inputs = given.two_at_least()
    try:
        graph = _graph(model, inputs)
    except BadInput:
        if inputs is given:
            raise
        inputs, graph = given, _graph(model, given)  # a network made for one example at a time
    return Traced(graph, couple(graph), inputs, model, usable.notes + graph.notes)


def _graph(model: nn.Module, inputs: Inputs) -> Graph:
    return observe(model, inputs).graph if isinstance(model, Program) else record(model, inputs)


def shrink(  # noqa: PLR0913  the public call: what is cut, and three switches
    model: nn.Module,
    example_inputs: Any,
    ratio: float | None = None,
    *,
    check: bool = True,
    measure: bool = True,
    source: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Result:
    """Remove channels from a copy of `model`, prove the copy and measure it; `model` is untouched.

    ratio: share of channels removed of each group, in [0, 1). Other options: `Options`.
    check: run the oracle (raises CheckFailed; False is not obeyed where only the oracle can tell that the
    cut is right: a layer left with one channel). measure: count, export and time both networks.
    Raises BadInput for what cannot be used, OutOfReach where nothing can be cut or a limit is out of
    reach.

    >>> r = shrink(net, torch.zeros(1, 3, 224, 224), ratio=0.5)  # doctest: +SKIP
    """
    run = _Run(progress)
    model, inputs = unwrapped(model), Inputs.of(example_inputs)
    _with_numbers(model, check or measure)
    asked = _request(ratio, options)
    proposal = _propose(model, inputs, asked, source, run)
    traced, plan = proposal.traced, proposal.plan
    done, traced = run("cut", lambda: _cut(traced, inputs, plan))
    result = _finish((model, inputs, traced), done, plan, proposal.notes, run, (check, measure))
    result = replace(result, dead=proposal.dead)
    if "compensate" not in asked[1].recover:
        return result
    return run("recover", lambda: _recovered(result, traced, asked[1]))


def propose(
    model: nn.Module,
    example_inputs: Any,
    ratio: float | None = None,
    *,
    source: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Proposal:
    """What `shrink` would cut with the same arguments; nothing is cut. Raises as `shrink` does.

    A model on the meta device will do where the criterion reads no weights (criterion='random').
    """
    request = _request(ratio, options)
    return _propose(model, Inputs.of(example_inputs), request, source, _Run(progress))


def _with_numbers(model: nn.Module, needed: bool) -> None:
    if not needed or not isinstance(model, nn.Module):
        return
    if any(t.is_meta for t in named_state(model).values()):
        raise BadInput(
            "the model is on the meta device: without numbers a cut cannot be proven or measured",
            "load the weights; surgeon.propose plans without, and so does check=False, measure=False",
        )


def check_options(ratio: float | None = None, **options: Unpack[Options]) -> None:
    """Raise BadInput for options that `shrink` would refuse, without a model."""
    _request(ratio, options)


def _propose(
    model: nn.Module,
    inputs: Inputs,
    asked: tuple[Request, Material],
    source: str | None,
    run: _Run,
) -> Proposal:
    request, material = asked
    refuse_without_data(request.criterion, material.data is not None)
    traced = run("trace and couple", lambda: trace(model, inputs))
    coupling = traced.coupling
    model = traced.model
    facts = model_facts(traced.graph, source, describe(inputs))
    if request.dead:
        plan, dead = run("find what is dead", lambda: dead_plan(traced, facts, request.as_dict()))
        return Proposal(traced, plan, said_of(dead) + traced.notes, dead)
    choice, broken = run("score and plan", lambda: _choose(model, coupling, request, material))
    plan = make_plan(coupling, choice, facts, request.as_dict())
    return Proposal(traced, plan, _notes(coupling, choice, broken) + traced.notes)


def apply(plan: Plan, model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """The slim copy that a plan describes, in eval mode. Raises BadInput at the first mismatch.

    Without example_inputs, constants of the shapes recorded in the plan are used.
    """
    return apply_checked(plan, model, example_inputs, check=False, measure=False).model


def apply_checked(
    plan: Plan,
    model: nn.Module,
    example_inputs: Any = None,
    *,
    check: bool = True,
    measure: bool = True,
    progress: Progress | None = None,
) -> Result:
    """Replay a plan as `shrink` would have cut it, proven and measured."""
    run = _Run(progress)
    model = unwrapped(model)
    inputs = Inputs.of(example_inputs) if example_inputs is not None else inputs_of(plan)
    try:
        traced = run("trace and couple", lambda: trace(model, inputs))
    except BadInput:  # another model takes other inputs: that is what should be said of it
        refuse_other_shapes(plan, {n: tuple(t.shape) for n, t in named_state(model).items()})
        raise
    refuse_other_model(plan, traced.graph)
    plan, said = _as_cut(recounted(traced.coupling, plan))
    done, traced = run("cut", lambda: _cut(traced, inputs, plan))
    given = (model, inputs, traced)
    return _finish(given, done, plan, said + traced.notes, run, (check, measure))


def _as_cut(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """A plan says what goes and not which weights were changed later: of those a replay has none."""
    if "tuned" not in plan.model:
        return plan, ()
    said = "the plan is of a network whose weights were changed after the cut; a replay has them as cut"
    return replace(plan, model={k: v for k, v in plan.model.items() if k != "tuned"}), (said,)


def remove(
    model: nn.Module,
    example_inputs: Any,
    channels: Mapping[str, Sequence[int]],
    **kwargs: Any,
) -> Result:
    """Remove channels by hand: {'layer1.0.conv1': [0, 3, 5]} output channels of a layer,
    {'layer2.0.conv1:in': [1]} its input kernels; what is coupled follows. Else as `shrink`."""
    return shrink(model, example_inputs, remove=channels, **kwargs)


def inputs_of(plan: Plan) -> Inputs:
    """Constants of the shapes and types that a plan was made with."""
    return recorded(plan.model.get("inputs"))


# steps that make many small objects and no cycles among large ones: half their time would go to looking
_LIGHT = ("trace and couple", "score and plan", "cut")


@contextmanager
def _collecting_later() -> Iterator[None]:
    """No cyclic garbage collection inside."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Run:
    """Tells what it does, and keeps how long each step took."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    def __call__(self, what: str, step: Callable[[], Any]) -> Any:
        if self._progress:
            self._progress(what)
        start = time.perf_counter()
        with _collecting_later() if what in _LIGHT else nullcontext():
            result = step()
        self.seconds[what] = time.perf_counter() - start
        return result


def _request(ratio: float | None, options: Options) -> tuple[Request, Material]:
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise BadInput(
            f"no option {', '.join(sorted(unknown))}",
            f"there are ratio, {', '.join(Options.__annotations__)}",
        )
    given: dict[str, Any] = dict(options)
    material = Material.of(given)
    if given.get("dead") and material.data is not None:
        raise BadInput("--dead asks no data: the outputs stay as they are", "leave out --data")
    if "normalize" in given:
        given.setdefault("normalise", given.pop("normalize"))
    for what in ("max_flops", "max_params"):
        if given.get(what) is not None:
            given[what] = Limit.parse(given[what], what)
    for what in ("cut", "equal"):
        if given.get(what) is not None:
            given[what] = kinds(given[what])
    given["ignore"] = tuple(given.get("ignore", ()))
    given["remove"] = {k: tuple(v) for k, v in given.get("remove", {}).items()}
    own = known(given.get("criterion", Request.criterion)).normalise
    given["normalise"] = given.get("normalise") or own
    return Request(ratio=ratio, **given), material


def _choose(
    model: nn.Module, coupling: Coupling, request: Request, material: Material
) -> tuple[Choice, tuple[str, ...]]:
    original = Original(model, coupling, material)
    evidence = Evidence(read_state(model), request.by, request.seed, original)
    how = (request.criterion, request.reduce, request.normalise)
    scores, broken = scores_of(coupling.groups, evidence, *how)
    if material.data is None or not {"select", "allocate"} & set(material.recover):
        return choose(coupling, scores, request), broken
    found = study(model, coupling, scores, joined(material.data)[0], material.recover)
    return choose(coupling, found.scores, request, found.curves), broken


def _recovered(result: Result, traced: Traced, material: Material) -> Result:
    """The slim network fitted to the dense one on the user's data; its plan says so."""
    assert material.data is not None
    done = recover(traced.model, result.model, result.plan, *joined(material.data))
    plan = replace(result.plan, model={**result.plan.model, "tuned": done.how()})
    return replace(
        result,
        plan=plan if done.layers else result.plan,
        recovery=done,
        notes=result.notes + done.notes,
    )


def _notes(coupling: Coupling, choice: Choice, broken: Sequence[str]) -> tuple[str, ...]:
    notes = list(choice.notes)
    if broken:
        notes.append(f"NaN or infinite weights, their channels go first: {', '.join(broken)}")
    graph = coupling.graph
    inside = tuple(f"{call.path}." for _, call in calls(graph))  # run, and not looked at
    trained = {v for node in graph.nodes for v in node.inputs}
    trained -= {v for node in graph.forward for v in node.inputs}
    for what, values in {
        "not used by the eval forward, left whole": set(graph.state.values()) - set(coupling.dims),
        "used by the training forward alone, cut with the rest, compared op by op and not by numbers": trained,
    }.items():
        names = [n for n, v in graph.state.items() if n in graph.parameters and v in values]
        names = [n for n in names if not n.startswith(inside)]
        if names:
            notes.append(f"{what}: {', '.join(names[:4])} ({len(names)} tensors)")
    for op in without_op(node.op for node in graph.nodes):
        notes.append(f"surgeon.rule was given for {op}, and torch.ops has no such op: see its name")
    return tuple(notes)


def _cut(traced: Traced, given: Inputs, plan: Plan) -> tuple[Cut, Traced]:
    """The cut, and the trace with the inputs that it takes.

    A batch of one was doubled to be traced; a program that has its batch fixed is captured with the one given.
    """
    done = cut(traced.model, traced.inputs, traced.coupling, plan)
    if not isinstance(done.model, Program) or done.model.takes(given):
        return done, traced
    with suppress(SurgeonError):
        return as_program(traced.model, given, plan, done.why or ""), replace(traced, inputs=given)
    return done, traced


def checked(model: nn.Module, traced: Traced, done: Cut, plan: Plan) -> tuple[Cut, CheckResult]:
    """A cut and its proof; raises CheckFailed. A module of which only numbers could tell that it is wrong is cut as a program."""
    try:
        return done, _proven(model, done.model, replace(plan, folds=done.folds), traced.inputs)
    except CheckFailed as error:
        if done.certain or done.way != "module":
            raise
        why = f"its own forward computes something else: {error.message.splitlines()[0]}"
        with suppress(SurgeonError):
            program = as_program(traced.model, traced.inputs, plan, why)
            return program, _proven(model, program.model, plan, traced.inputs)
        raise


def _proven(model: nn.Module, slim: nn.Module, plan: Plan, inputs: Inputs) -> CheckResult:
    """The oracle on what was just cut: where it differs, nobody but surgeon, or a user's rule, can be wrong."""
    try:
        return run_check(model, slim, plan, inputs)
    except Unproven as error:
        hint = f"{error.hint}; nothing was written" if error.hint else "nothing was written"
        raise Unproven(error.message, hint) from error
    except CheckFailed as error:
        theirs = any(r.family == USER for r in RULES.values())
        hint = "this is a bug in surgeon: nothing was written"
        if theirs:
            hint = "see that your rules say what the ops compute; if they do, " + hint
        raise CheckFailed(error.message, hint) from error


def _finish(
    given: tuple[nn.Module, Inputs, Traced],
    done: Cut,
    plan: Plan,
    notes: tuple[str, ...],
    run: _Run,
    wanted: tuple[bool, bool],
) -> Result:
    model, inputs, traced = given
    proof = measured = None
    if wanted[0] or not done.certain:
        done, proof = run("check", lambda: checked(model, traced, done, plan))
        notes += proof.notes
    if isinstance(done.model, Program) and not done.model.takes(inputs):
        inputs = traced.inputs
    plan, notes = replace(plan, folds=done.folds), notes + done.notes
    if wanted[1]:
        measured = run("measure", lambda: before_after(model, done.model, inputs))
        notes += measured.notes
    found = reach(traced.coupling) if any(wanted) else None
    return Result(
        done.model, plan, done.way, inputs, done.why, proof, measured, found, notes, run.seconds
    )
