"""`surgeon check`: the oracle on two files, and which plan and model the second one holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from surgeon.files.checkpoint import Checkpoint
    from surgeon.files.source import Source
    from surgeon.plan import Plan

Slim = Annotated[
    str,
    typer.Argument(
        metavar="SLIM",
        help="A slim.pth; any other file of the slim model with --plan",
        show_default=False,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="What was cut, where SLIM does not say"),
]


def check(
    original: o.Model,
    slim: Slim,
    plan: PlanFile = None,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Prove that a slim model computes what the original does with the removed channels masked."""
    import surgeon
    from surgeon.files.checkpoint import read
    from surgeon.files.slim import plan_of
    from surgeon.planning import refuse_other_model, removed_by
    from surgeon.report.text import proven
    from surgeon.structure import check_structure

    screen = Screen(json, quiet)
    how = o.opening(arch, input, allow, unsafe_pickle, threads)
    said = surgeon.Plan.load(plan) if plan is not None else None
    found = read(slim, how.allow, how.unsafe_pickle)
    if said is None and found.payload is not None:
        said = plan_of(found.payload)
    source = how.for_plan(said).open(original, screen)
    small, said = _opened(source, (slim, found), said, how)
    screen.step("trace, then compare")
    traced = surgeon.trace(source.model, source.inputs)
    refuse_other_model(said, traced.graph)
    removed_by(traced.coupling, said)  # refuses a plan that does not fit
    prove = check_structure if said.model.get("tuned") else surgeon.check
    result = prove(source.model, small, said, traced.inputs)
    screen.notes(result.notes)
    screen.show(proven(result.as_dict()))
    screen.data({**result.as_dict(), "notes": [*source.notes, *result.notes]})


def _opened(
    original: Source, slim: tuple[str, Checkpoint], plan: Plan | None, how: o.Opening
) -> tuple[nn.Module, Plan]:
    from surgeon.files.slim import load_payload
    from surgeon.files.source import open_model

    ref, found = slim
    if plan is not None and found.payload is not None:
        return load_payload(found.payload), plan
    if plan is None:
        raise BadInput(f"{ref} does not say what was cut", "add --plan plan.json, or give slim.pth")
    if found.state is not None:
        return _filled(original, ref, plan, found.state), plan
    return open_model(ref, allow=how.allow, unsafe_pickle=how.unsafe_pickle).model, plan


def _filled(original: Source, ref: str, plan: Plan, state: dict) -> nn.Module:
    """Weights alone belong into what the plan makes of the original."""
    import surgeon
    from surgeon.files import fit

    small = surgeon.apply(plan, original.model, original.inputs)
    differs = fit.difference(state, small)
    if differs:
        raise BadInput(
            f"{ref} does not fit the original cut by this plan\n{differs}", "check --plan"
        )
    fit.load(state, small)
    return small
