"""`surgeon sweep`: several limits on one network, each cut, proven and measured, and a page that compares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli.deliver import Delivery, delivered
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput, OutOfReach

if TYPE_CHECKING:
    from surgeon.files.source import Source

Limits = Annotated[
    str | None,
    typer.Option(
        metavar="A..B", help="From A to B: 0.9x..0.3x; or just these: 0.8x,0.5x; or 12ms,8ms"
    ),
]
Points = Annotated[int, typer.Option(min=2, max=50, help="Limits in a range")]


def sweep(
    model: o.Model,
    max_latency: Limits = None,
    max_memory: Limits = None,
    max_size: Limits = None,
    max_flops: Limits = None,
    max_params: Limits = None,
    points: Points = 5,
    ignore: o.Ignore = None,
    criterion: o.Criterion = None,
    round_to: o.RoundTo = None,
    data: c.Data = None,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    recover: c.Recover = None,
    eval_data: c.EvalData = None,
    device: o.Device = None,
    runtime: o.Runtime = None,
    output: o.Output = None,
    arch: o.Arch = None,
    input: o.Input = None,
    metric: o.Metric = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Shrink to one limit after the other, and write a page with the front of what can be had."""
    screen = Screen(json, quiet)
    asked = {
        "latency": max_latency,
        "memory": max_memory,
        "size": max_size,
        "flops": max_flops,
        "params": max_params,
    }
    what, limits = _asked({q: v for q, v in asked.items() if v}, points)
    told = {"ignore": ignore, "criterion": criterion, "round_to": parse.multiple(round_to)}
    common: dict[str, Any] = {key: value for key, value in told.items() if value}
    calibration = c.calibration(data, samples, mean, std, recover)
    target = o.target(device, runtime, threads)
    source = o.opening(arch, input, allow, unsafe_pickle, threads).open(model, screen)
    if calibration:
        source, learnt = calibration.opened(source, screen)
        common |= learnt
    seen, held = c.held_out(eval_data, calibration, source, screen)
    seen, held = (common.get("data"), False) if seen is None else (seen, held)
    out = output or Path(f"{source.name}-sweep")
    wanted = Delivery(target, out, metric=metric, examples=seen, held_out=held)
    _run((source, model), (what, limits), common, wanted, screen)


def _asked(given: dict[str, str], points: int) -> tuple[str, list[str]]:
    """(the quantity, limits from the mildest to the hardest)."""
    if len(given) != 1:
        lacks = "nothing was asked" if not given else "one quantity at a time"
        raise BadInput(lacks, "give --max-latency 0.9x..0.3x, or another --max-...")
    what, text = next(iter(given.items()))
    found = parse.limits(text, f"--max-{what}", points)
    if len(found) < 2:
        raise BadInput("a sweep is of several limits", f"give --max-{what} 0.9x..0.3x")
    return what, list(dict.fromkeys(found))


def _run(
    model: tuple[Source, str],
    asked: tuple[str, Sequence[str]],
    common: dict[str, Any],
    wanted: Delivery,
    screen: Screen,
) -> None:
    """Each limit into a folder of its own; what could not be reached is a row that says why."""
    from dataclasses import replace

    import surgeon
    from surgeon.report import sweep as s
    from surgeon.report.files import write_sweep

    source, ref = model
    what, limits = asked
    out, rows, last, found = wanted.output or Path("sweep"), [], None, None
    where = o.timed_on(wanted.target, {f"max_{what}": "", **common}, no_measure=False)
    for limit in limits:
        screen.step(f"{what} {limit}")
        options = {f"max_{what}": limit, "measure": False, "progress": screen.step, **where}

        def cut(options: dict[str, Any] = options) -> surgeon.Result:
            return surgeon.shrink(source.model, source.inputs, source=ref, **options, **common)

        try:
            folder = replace(wanted, output=out / limit)
            done = delivered(source, cut, folder, screen)
            rows.append(s.row(limit, limit, done))
            last = done if done["measured"] else last
        except OutOfReach as error:
            screen.notes([f"{limit}: {error.message}"])
            rows.append(s.unreached(limit, error.message))
        if last is not None:  # after each, so that what is done is not lost
            notes = (*source.notes, *_said(last, len(rows), len(limits)))
            found = s.sweep(last, (what, str(out)), rows, notes)
            write_sweep(found, out)
    if found is None:
        raise OutOfReach(f"none of the limits can be reached: {rows[0]['why']}", "ask for less")
    _show(found, out, screen)


def _said(last: dict[str, Any], done: int, asked: int) -> Iterator[str]:
    """What the quality of a sweep's networks is of, and whether there are more to come."""
    seen = (last.get("metrics") or {}).get("examples")
    if seen:
        how = "held out from the cut" if seen["held_out"] else "the cut saw them, or may have"
        yield f"quality is of {seen['examples']} examples ({how})"
    if done < asked:
        yield f"unfinished: {done} of {asked} limits so far"


def _show(found: dict[str, Any], out: Path, screen: Screen) -> None:
    from surgeon.report import tables

    screen.show(tables.sweep(found), "", f"written: {out / 'sweep.html'}")
    screen.data(found)
