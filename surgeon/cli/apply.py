"""`surgeon apply`: replay a plan, as it was made or edited by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli.deliver import Delivery, deliver
from surgeon.cli.screen import Screen

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json", show_default=False)]


def apply(
    plan: PlanFile,
    model: o.Model,
    data: c.Data = None,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    output: o.Output = None,
    arch: o.Arch = None,
    input: o.Input = None,
    metric: o.Metric = None,
    eval_data: c.EvalData = None,
    no_check: o.NoCheck = False,
    no_measure: o.NoMeasure = False,
    no_onnx: o.NoOnnx = False,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    device: o.Device = None,
    runtime: o.Runtime = None,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Cut a model as a plan says; a plan that does not fit is refused with the first mismatch. With --data, what stays is fitted."""
    from surgeon.pipeline.replay import apply_checked
    from surgeon.plan import Plan

    screen = Screen(json, quiet)
    given = c.calibration(data, samples, mean, std, None)
    replayed, fit = Plan.load(plan), {}
    how = o.opening(arch, input, allow, unsafe_pickle, threads).for_plan(replayed)
    source = how.open(model, screen)
    if given:
        source, fit = given.opened(source, screen)
    seen, _ = c.held_out(eval_data, given, source, screen)
    seen = fit.get("data") if seen is None else seen
    wanted = Delivery(
        o.target(device, runtime, threads), output, not no_measure, not no_onnx, metric, seen, None
    )
    deliver(
        source,
        lambda: apply_checked(
            replayed,
            source.model,
            source.inputs,
            check=not no_check,
            measure=False,
            progress=screen.step,
            **fit,
        ),
        wanted,
        screen,
    )
