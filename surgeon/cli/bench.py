"""`surgeon bench`: how fast models really are, interleaved where there are several."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli.screen import Screen
from surgeon.runner.engines import PACKAGES

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Any form of MODEL, and files of runtimes: .onnx, .tflite, .pte",
        show_default=False,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Examples in one run; 1 where the input is guessed"),
]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES", help="Last sizes of the inputs: 256,256 for pictures, 64 for tokens"
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help=f"One of {', '.join(PACKAGES)}; the first by default; several with ',' or repeated",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="PLACE", help="Where to time: local, ssh://user@host[:port], adb[:serial]"
    ),
]
MaxTime = Annotated[float, typer.Option(min=0.1, help="Seconds of timing for each model, at most")]
Percentiles = Annotated[
    str, typer.Option(metavar="LIST", help="Beside the median, where there are runs enough: 90,99")
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Time by layer, from the runtime's own profiler")
]


def bench(
    models: Models,
    arch: o.Arch = None,
    input: o.Input = None,
    batch: Batch = None,
    shape: Shape = None,
    runtime: Runtimes = None,
    device: Device = "local",
    threads: o.Threads = 1,
    max_time: MaxTime = 30.0,
    percentiles: Percentiles = "90",
    profile: Profile = False,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Latency, memory and size in one or more runtimes; two or more models are timed in random turns."""
    from surgeon.report import tables, text
    from surgeon.report.contest import Looking, contest
    from surgeon.report.entrants import Terms

    screen = Screen(json, quiet)
    how = o.opening(arch, input, allow, unsafe_pickle, threads)
    terms = Terms(
        how.arch,
        how.input,
        how.allow,
        how.unsafe_pickle,
        threads,
        batch,
        parse.sizes(shape, "--shape"),
        parse.names(runtime),
        device,
    )
    looking = Looking(max_time, parse.percents(percentiles), profile)
    found = contest(models, terms, looking, screen.step)
    screen.notes(found["notes"])
    left = [f"not timed: {why}" for why in found["left"]]
    screen.show(tables.timings(found["models"]), "", *left, *found["conditions"])
    for one in found["models"]:
        if one["profile"]:
            screen.show("", text.layers(one), tables.profile(one))
    screen.data(found)
