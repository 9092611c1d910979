"""`surgeon shrink`: the main job, from a checkpoint to a smaller one that is proven and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli import regime as g
from surgeon.cli.deliver import Delivery, deliver
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput, SurgeonError

if TYPE_CHECKING:
    from surgeon.files.source import Source
    from surgeon.plan import Plan

Ratio = Annotated[
    str | None, typer.Option(metavar="R", help="Share of channels to remove: 0.5 or 50%")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Instead of a ratio: channels go whose normalised score is below T, as 0.1",
    ),
]
RatioFor = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB=R", help="Another ratio for some layers: 'layer4.*=0.7'; repeatable"
    ),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LAYER=I,J",
        help="Remove by hand: 'layer1.0.conv1=0,3,5-9', or input kernels 'layer2.0.conv1:in=1'; repeatable",
    ),
]
Reduce = Annotated[
    str | None,
    typer.Option(
        metavar="HOW", help="Scores of a group's layers become one: mean (default), sum, max, first"
    ),
]
Normalise = Annotated[
    str | None,
    typer.Option(
        "--normalise", "--normalize", metavar="HOW",
        help="Scores of groups that compete on one scale: none, mean (default), max, gaussian, lamp",
    ),
]  # fmt: skip
By = Annotated[
    str | None,
    typer.Option(
        metavar="WHOSE", help="Whose weights decide: group (default), filter, shared-kernel"
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(metavar="SCOPE", help="Groups compete: local (default, no), global, isomorphic"),
]
Kinds = Annotated[
    str | None,
    typer.Option(
        "--cut",
        metavar="KINDS",
        help="Only these kinds: heads, head_dim, mlp, width; all by default",
    ),
]
Equal = Annotated[
    str | None,
    typer.Option(
        metavar="KINDS", help="Kinds whose groups of one make keep equally many channels: heads,mlp"
    ),
]
Dead = Annotated[
    bool,
    typer.Option(
        "--dead",
        help="Only what is dead: channels whose removal changes no output, as their constants are carried on",
    ),
]
Program = Annotated[
    bool | None,
    typer.Option(
        "--program/--no-program",
        help="What the network's own forward does not follow is cut as a program, or left whole; by default left whole where it is little",
        show_default=False,
    ),
]
Limit = Annotated[
    str | None, typer.Option(metavar="LIMIT", help="Instead of a ratio, at most: 0.5x, 900M, 1.2G")
]
Latency = Annotated[
    str | None,
    typer.Option(
        metavar="LIMIT", help="Instead of a ratio: measured latency, at most: 0.5x or 12ms"
    ),
]
Bytes = Annotated[
    str | None,
    typer.Option(metavar="LIMIT", help="Instead of a ratio, at most: 0.5x, 40MB or 512KiB"),
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="Replay this plan, as apply does")
]
Measured = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="How much of each group goes: from what surgeon sensitivity measured, not anew from --data",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be cut, and write nothing")]
Seed = Annotated[int | None, typer.Option(help="Of the random criterion")]


def shrink(
    model: o.Model,
    ratio: Ratio = None,
    threshold: Threshold = None,
    ratio_for: RatioFor = None,
    ignore: o.Ignore = None,
    remove: Remove = None,
    cut: Kinds = None,
    equal: Equal = None,
    max_flops: Limit = None,
    max_params: Limit = None,
    max_latency: Latency = None,
    max_memory: Bytes = None,
    max_size: Bytes = None,
    device: o.Device = None,
    runtime: o.Runtime = None,
    criterion: o.Criterion = None,
    by: By = None,
    reduce: Reduce = None,
    normalise: Normalise = None,
    scope: Scope = None,
    round_to: o.RoundTo = None,
    seed: Seed = None,
    dead: Dead = False,
    program: Program = None,
    data: c.Data = None,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    recover: c.Recover = None,
    eval_data: c.EvalData = None,
    sensitivity: Measured = None,
    steps: g.Steps = None,
    schedule: g.Schedule = None,
    tune: g.Tune = None,
    tune_with: g.TuneWith = None,
    teacher: g.TeacherRef = None,
    rewind: g.Rewind = None,
    reinit: g.Reinit = False,
    restart: g.Restart = False,
    plan: PlanFile = None,
    dry_run: DryRun = False,
    output: o.Output = None,
    arch: o.Arch = None,
    input: o.Input = None,
    metric: o.Metric = None,
    no_check: o.NoCheck = False,
    no_measure: o.NoMeasure = False,
    no_onnx: o.NoOnnx = False,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Remove whole filters and channels from a trained network, prove the result, measure it."""
    screen = Screen(json, quiet)
    asked: dict[str, Any] = {
        "ratio": None if ratio is None else parse.share(ratio),
        "threshold": threshold,
        "ratio_for": parse.shares(ratio_for),
        "ignore": ignore,
        "remove": parse.positions(remove),
        "cut": cut,
        "equal": equal,
        "max_flops": max_flops,
        "max_params": max_params,
        "max_latency": max_latency,
        "max_memory": max_memory,
        "max_size": max_size,
        "criterion": criterion,
        "by": by,
        "reduce": reduce,
        "normalise": normalise,
        "scope": scope,
        "round_to": parse.multiple(round_to),
        "seed": seed,
        "dead": dead or None,
        "program": program,
        "sensitivity": sensitivity,
    }
    asked = {key: value for key, value in asked.items() if value not in (None, {}, [])}
    target = o.target(device, runtime, threads)
    asked |= o.timed_on(target, asked, no_measure)
    given = c.calibration(data, samples, mean, std, recover)
    told = tuple(tune_with or ())
    regime = g.RegimeOptions(steps, schedule, tune, told, teacher, rewind, reinit, restart)
    asked |= regime.asked(given is not None)
    replayed = _replayed(plan, asked | (given.asked() if given else {}))
    if dry_run and (steps or 1) > 1:
        raise BadInput(
            "what later steps cut depends on the weights that earlier ones leave",
            "leave out --steps to see one cut, or --dry-run",
        )
    how = o.opening(arch, input, allow, unsafe_pickle, threads).for_plan(replayed)
    source = how.open(model, screen)
    if given:
        source, learnt = given.opened(source, screen)
        asked |= learnt
    if dry_run:
        _preview(source, model, asked, replayed, screen)
        return
    asked |= regime.opened(source, (how, screen), asked, given)
    seen, held = c.held_out(eval_data, given, source, screen)
    seen, held = (asked.get("data"), False) if seen is None else (seen, held)
    wanted = Delivery(
        target, output, not no_measure, not no_onnx, metric, seen, held if plan is None else None
    )
    if tune is not None:
        out = output or Path(f"{source.name}-slim")
        asked["state"] = g.unfinished(out, restart)
    try:
        _cut(source, model, asked, replayed, (not no_check, wanted), screen)
    except KeyboardInterrupt:
        screen.notes(g.how_to_go_on(asked.get("state")))
        raise
    except SurgeonError:
        g.leave_nothing_empty(asked.get("state"))
        raise
    g.done(asked.get("state"))


def _replayed(path: Path | None, asked: dict[str, Any]) -> Plan | None:
    from surgeon.plan import Plan

    if path is None:
        # refused before the model is opened, which may take long
        from surgeon.shrink import check_options

        check_options(**asked)
        return None
    from surgeon.pipeline.replay import Fit, material_of

    fit = {key: asked.pop(key) for key in Fit.__annotations__ if key in asked}
    material_of(None, fit)  # type: ignore[arg-type]
    if asked:
        given = ", ".join("--" + key.replace("_", "-") for key in asked)
        raise BadInput(
            f"--plan says what is cut, and {given} says it again", "leave one of them out"
        )
    return Plan.load(path)


def _cut(
    source: Source,
    ref: str,
    asked: dict[str, Any],
    plan: Plan | None,
    how: tuple[bool, Delivery],
    screen: Screen,
) -> None:
    import surgeon
    from surgeon.cli.bars import Bars
    from surgeon.pipeline.replay import apply_checked

    common: Any = {"check": how[0], "measure": False, "progress": screen.step}

    def cut() -> surgeon.Result:
        if plan is not None:
            return apply_checked(plan, source.model, source.inputs, **common, **asked)
        with Bars(screen.quiet) as bars:
            common.update({"watch": bars.epoch} if "tune" in asked else {})
            return surgeon.shrink(source.model, source.inputs, source=ref, **common, **asked)

    deliver(source, cut, how[1], screen)


def _preview(
    source: Source, ref: str, asked: dict[str, Any], plan: Plan | None, screen: Screen
) -> None:
    from surgeon.pipeline.proposed import Proposal
    from surgeon.pipeline.traced import trace
    from surgeon.report import tables, text
    from surgeon.report.preview import preview
    from surgeon.shrink import propose

    asked = {k: v for k, v in asked.items() if k not in ("tune", "rewind", "reinit", "steps")}
    if plan is not None:
        proposal = Proposal(trace(source.model, source.inputs), plan, ())
    else:
        common: Any = {"source": ref, "progress": screen.step}
        proposal = propose(source.model, source.inputs, **common, **asked)
    report = preview(proposal, source.notes)
    screen.notes(report["notes"])
    screen.show(tables.groups_cut(report), "", tables.groups_left(report), "")
    screen.show(tables.expected(report), "", "dry run: nothing was cut or written", text.PLANNED)
    screen.data(report)
