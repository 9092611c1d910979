"""`surgeon bench`: how fast models really are, interleaved where there are several."""

from __future__ import annotations

from typing import Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...", help="Any form of MODEL, and .onnx files", show_default=False
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Examples in one run, where the input is guessed")]
MaxTime = Annotated[float, typer.Option(min=0.1, help="Seconds of timing for each model, at most")]


def bench(
    models: Models,
    arch: o.Arch = None,
    input: o.Input = None,
    batch: Batch = 1,
    max_time: MaxTime = 30.0,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Latency, memory and size on ONNX Runtime; two or more models are timed in random turns."""
    from surgeon.report import tables
    from surgeon.report.contest import Terms, contest

    screen = Screen(json, quiet)
    how = o.opening(arch, input, allow, unsafe_pickle, threads)
    terms = Terms(how.arch, how.input, how.allow, how.unsafe_pickle, threads, batch)
    found = contest(models, terms, max_time, screen.step)
    screen.notes(found["notes"])
    screen.show(tables.timings(found["models"]), "", *found["conditions"])
    screen.data(found)
