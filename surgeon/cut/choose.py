"""Which of the two surgeries: module surgery where the module's own forward then does what was planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from surgeon.constants import add_carries
from surgeon.couple import Coupling
from surgeon.cut.attempt import Attempt
from surgeon.cut.config import configure, has_config
from surgeon.cut.fits import Misfit
from surgeon.cut.flow import Unfoldable
from surgeon.cut.fold import fold
from surgeon.cut.module import cut_module
from surgeon.cut.program import cut_program
from surgeon.cut.repair import repair
from surgeon.cut.sizes import Sizes
from surgeon.errors import BadInput, CheckFailed, SurgeonError
from surgeon.graph import Path
from surgeon.plan import Folds, Plan
from surgeon.planning import removed_by
from surgeon.trace.called import calls
from surgeon.trace.folding import own_twin
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import Program


@dataclass(frozen=True)
class Cut:
    """A cut model in eval mode.

    `way` is 'module' or 'program', `why` says why not the first, and `at` at which node of the original's graph, where one can be
    named. `folds` is what the plan must say of
    factors put into weights. Where it is not `certain`, only the oracle can tell that it is right; `doubt` says what is known to run
    otherwise than planned.
    `notes` say what the user should know of the copy; `unsaid`: its config cannot say what it is.
    """

    model: nn.Module
    way: str
    why: str | None = None
    folds: Folds = field(default_factory=dict)
    certain: bool = True
    notes: tuple[str, ...] = ()
    at: int | None = None
    doubt: str | None = None
    unsaid: bool = False


@dataclass(frozen=True)
class Terms:
    """What is known of a network before it is cut, and what its cut must be. `refusal`: why it has no program. `spared`: whether a
    program is not even tried, as another plan will be made. `said`: whether its config must say what it is."""

    refusal: BadInput | None = None
    spared: Callable[[NotFollowed], bool] | None = None
    said: bool = False


class Spared(BadInput):
    """Nobody looked for a program."""

    def __init__(self) -> None:
        super().__init__("none was asked for", "leave out --no-program")


class ConfigUnset(SurgeonError):
    """The model's config cannot be set to what a plan leaves, and was to be."""


class NotFollowed(SurgeonError):
    """Neither surgery can carry out `plan`: there is no program that it fits (`refusal`), and the module does not follow at
    node `at` of the original's graph, where one can be named. `disproved`: what the oracle found, where it was only that
    which told."""

    disproved: CheckFailed | None = None

    def __init__(self, why: str, plan: Plan, refusal: BadInput, at: int | None = None) -> None:
        super().__init__(
            f"neither surgery can cut this network: its own forward does not follow ({why}), "
            f"and as a program: {refusal.message}",
            refusal.hint,
        )
        self.plan, self.refusal, self.at = plan, refusal, at


def cut(
    model: nn.Module,
    inputs: Any,
    coupling: Coupling,
    plan: Plan,
    terms: Terms = Terms(),
) -> Cut:
    """A smaller copy of `model`; the model is not touched.

    Raises BadInput where the plan does not fit, ConfigUnset where its config must say it and cannot, NotFollowed where neither surgery
    can follow it, SurgeonError where a program cannot be written.
    """
    with torch.inference_mode(False):  # what is made here may be trained
        return _cut(model, Inputs.of(inputs), coupling, plan, terms)


def _cut(
    model: nn.Module,
    inputs: Inputs,
    coupling: Coupling,
    plan: Plan,
    terms: Terms,
) -> Cut:
    if isinstance(model, Program):
        program, certain = cut_program(model, inputs, plan)
        add_carries(program, plan)
        return Cut(program, "program", certain=certain, notes=program.notes)
    done, found = cut_fitting(model, inputs, coupling, plan, terms.said)
    if found is None:
        add_carries(done.model, plan)
        return done
    try:
        apart = NotFollowed(found.why, plan, Spared(), found.at)
        if terms.spared and terms.spared(apart):
            raise apart
        if terms.refusal is not None:
            raise NotFollowed(found.why, plan, terms.refusal)
        return replace(as_program(model, inputs, plan, found.why), at=found.at)
    except SurgeonError as error:
        if not found.certain:  # numbers can tell
            return replace(done, certain=False, doubt=found.why, at=found.at)
        slim = Attempt(done.model, inputs, Sizes(coupling, removed_by(coupling, plan)))
        error.hint = slim.written(found.at) or error.hint
        if isinstance(error, NotFollowed):
            error.at = found.at
        raise


def as_program(model: nn.Module, inputs: Inputs, plan: Plan, why: str) -> Cut:
    """Program surgery. why: what keeps the module's own forward from it. Raises NotFollowed where there is no program,
    or the plan does not fit it (its ops may couple more than the module's), SurgeonError where a size in it cannot
    be written."""
    try:
        program, certain = cut_program(model, inputs, plan)
    except BadInput as error:
        raise NotFollowed(why, plan, error) from error
    add_carries(program, plan)
    return Cut(program, "program", why, certain=certain, notes=program.notes)


def first_unlike(
    done: Cut, inputs: Inputs, coupling: Coupling, plan: Plan, path: Path
) -> int | None:
    """The original's first node that a cut module's own forward does not run as planned, op by op even where ops
    depend on the data: what may be wrong once the oracle said that something is, along a path. None where every one fits."""
    sizes = Sizes(coupling, removed_by(coupling, plan))
    attempt = Attempt(done.model, inputs, sizes, paths=(path,) if path else (), disproved=True)
    found = attempt.misfit(strict=True)
    return found.at if found is not None else None


def cut_fitting(
    model: nn.Module, inputs: Inputs, coupling: Coupling, plan: Plan, said: bool = False
) -> tuple[Cut, Misfit | None]:
    """Module surgery: what it gives, and where its forward does not follow the cut; with a config of its
    own where the model has one and it can be set. Raises ConfigUnset where it cannot and is to be (`said`)."""
    sizes = Sizes(coupling, removed_by(coupling, plan))
    slim = cut_module(model, plan.keep, sizes)
    if not has_config(model):
        return _fitted(slim, inputs, sizes, plan)
    why = configure(slim, inputs, sizes)
    if said and why is not None:
        raise ConfigUnset(why)
    done, found = _fitted(slim, inputs, sizes, plan)
    if said and found is not None:
        raise ConfigUnset(found.why)
    if why is None and found is not None:  # the original's attributes may do without its config
        why = found.why
        done, found = _fitted(cut_module(model, plan.keep, sizes), inputs, sizes, plan)
    if why is None:
        return done, found
    note = f"config says the original's sizes, so that from_pretrained cannot build the copy: {why}"
    return replace(done, notes=(note,), unsaid=True), found


def _fitted(slim: nn.Module, inputs: Inputs, sizes: Sizes, plan: Plan) -> tuple[Cut, Misfit | None]:
    attempt = Attempt(slim, inputs, sizes)
    found = attempt.misfit()
    if found is not None:
        if not repair(slim, sizes, attempt.came):
            return Cut(slim, "module"), replace(attempt.furthest or found, certain=found.certain)
        # a trial runs a copy, for which a class may make anew what it keeps twice (einops' layers)
        slim = own_twin(slim).eval()
    try:
        folds = fold(slim, sizes, plan.keep, attempt.lacks) if attempt.lacks else {}
    except Unfoldable as error:
        why = f"a scale follows a width, and cannot go into weights: {error}"
        return Cut(slim, "module"), Misfit(why, at=min(attempt.lacks))
    # of what is inside a module that has a rule nothing was seen
    certain = attempt.certain and not any(True for _ in calls(sizes.coupling.graph))
    return Cut(slim, "module", folds=folds, certain=certain), None
