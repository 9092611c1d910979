"""`surgeon sparsify`: zeros by a mask, for comparison; the network stays as large and as slow as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

Ratio = Annotated[str, typer.Option(metavar="R", help="Share of weights to zero: 0.5 or 50%")]
Granularity = Annotated[
    str,
    typer.Option(
        metavar="UNIT",
        help="weight, row, column, kernel, shared-kernel, stripe, filter, a block as 4x4, or N:M as 2:4",
    ),
]
Scope = Annotated[
    str, typer.Option(metavar="SCOPE", help="Units compete: local (default) or global")
]
Criterion = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="magnitude (default), random, or with --data gradient: |w x dL/dw|"
    ),
]
Schedule = Annotated[
    str, typer.Option(metavar="NAME", help="linear, exponential, polynomial or one-cycle")
]
Step = Annotated[int | None, typer.Option(help="Which of --steps; the last by default")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of the schedule")]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Layers that stay; repeatable")
]
Hooks = Annotated[
    bool, typer.Option("--masks", help="Masks of torch.nn.utils.prune instead of plain zeros")
]
Seed = Annotated[int, typer.Option(help="Of the random criterion")]
Target = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="NAME-sparse.pth by default"),
]


def sparsify(
    model: o.Model,
    ratio: Ratio = "0.5",
    granularity: Granularity = "weight",
    scope: Scope = "local",
    criterion: Criterion = "magnitude",
    schedule: Schedule = "linear",
    step: Step = None,
    steps: Steps = 1,
    ignore: Ignore = None,
    masks: Hooks = False,
    seed: Seed = 0,
    data: c.Data = None,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    output: Target = None,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Mask weights of a network, and say what that makes faster and what shrink --dead can remove."""
    from surgeon.pipeline.traced import trace
    from surgeon.report import text
    from surgeon.sparse.sparsify import Sparse, faster
    from surgeon.sparse.sparsify import sparsify as masked
    from surgeon.sparse.sparsity import sparsity
    from surgeon.sparse.store import store

    screen = Screen(json, quiet)
    last = steps if step is None else step
    how = Sparse(
        parse.share(ratio), granularity, scope, criterion, schedule, last, steps,
        tuple(ignore or ()), masks, seed,
    )  # fmt: skip
    given = c.calibration(data, samples, mean, std, None)
    if (criterion == "gradient") != (given is not None):
        raise BadInput(
            "the criterion gradient reads data, and no other does",
            "--criterion gradient --data DATA, or neither",
        )
    source = o.opening(arch, input, allow, unsafe_pickle, threads).open(model, screen)
    source, learnt = given.opened(source, screen) if given else (source, {})
    screen.step("mask")
    done = masked(source.model, how, learnt.get("data"))
    path = output or Path(f"{source.name}-sparse.pth")
    store(done.model, path, source.arch)
    screen.step("see what is dead")
    found = sparsity(trace(done.model, source.inputs))
    notes = [*source.notes]
    if done.skipped:
        notes.append(f"no units of this kind, left as they are: {', '.join(done.skipped[:4])}")
    screen.notes(notes)
    screen.show(
        f"masked: {done.sparsity:.1%} of the weights of {len(done.masks)} layers",
        *text.sparsity(found),
        f"speed: {faster(how)}",
        f"written: {path}",
    )
    screen.data(
        {
            "output": str(path),
            "masked_share": done.sparsity,
            "layers": len(done.masks),
            "skipped": list(done.skipped),
            "speed": faster(how),
            "sparsity": found,
            "notes": notes,
        }
    )
