"""`surgeon tune`: train a slim network on the user's data, from labels, the dense network, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from surgeon.files.source import Source
    from surgeon.tune import Tuned

Slim = Annotated[
    str, typer.Argument(metavar="SLIM", help="A slim.pth, or any model", show_default=False)
]
Data = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Training data: folder or zip of pictures, .npy, .npz, .pt, file.py:loader",
        show_default=False,
    ),
]
TeacherFile = Annotated[
    str | None, typer.Option(metavar="MODEL", help="The dense network, to learn from as well")
]
Epochs = Annotated[int, typer.Option(help="Times that the training data are gone through")]
BatchSize = Annotated[int, typer.Option("--batch", help="Examples a step, over all processes")]
Optimizer = Annotated[str, typer.Option(help="sgd or adamw; auto: sgd where there is batch norm")]
Rate = Annotated[float | None, typer.Option(help="Learning rate; by default 0.05 or 2e-4")]
Decay = Annotated[float | None, typer.Option(help="Weight decay; by default 5e-4 or 0.01")]
Schedule = Annotated[str, typer.Option(help="Of the learning rate: cosine, linear, constant")]
Warmup = Annotated[float, typer.Option(help="Share of the steps that warm up")]
Smoothing = Annotated[
    float | None, typer.Option(help="Of labels; 0.1 without a teacher, 0 with one, by default")
]
Hard = Annotated[float, typer.Option(help="Weight of the labels beside a teacher")]
Temperature = Annotated[float, typer.Option(help="Of the teacher's classes")]
Features = Annotated[float, typer.Option(help="Weight of inner features; 0 for outputs alone")]
Augment = Annotated[str, typer.Option(help="Of pictures: standard, trivial, none")]
Precision = Annotated[str, typer.Option(help="bf16, fp32; auto: bf16 on GPUs that have it")]
Ema = Annotated[float, typer.Option(help="Decay of the averaged weights, 0 for none")]
Validation = Annotated[float, typer.Option(help="Share held out to choose the best epoch")]
Keep = Annotated[
    str,
    typer.Option(
        help="best epoch on what is held out, or last: where the dense network was trained on these examples too"
    ),
]
Patience = Annotated[
    int | None, typer.Option(help="End after so many epochs without a better one; never by default")
]
Count = Annotated[
    int | None, typer.Option("--samples", help="Use so many examples; all by default")
]
Seed = Annotated[int, typer.Option(help="Of everything random")]
Workers = Annotated[int, typer.Option(help="Processes that read data")]
Loss = Annotated[
    str | None, typer.Option(metavar="FILE.PY:FUNCTION", help="Your loss of (output, labels)")
]
Mean = Annotated[str | None, typer.Option(metavar="M,M,M", help="Of pixels from 0 to 1")]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Of pixels from 0 to 1")]
Board = Annotated[Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write scalars")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again, not where a run was killed")]


def tune(
    slim: Slim,
    data: Data,
    teacher: TeacherFile = None,
    epochs: Epochs = 10,
    batch: BatchSize = 128,
    optimizer: Optimizer = "auto",
    lr: Rate = None,
    weight_decay: Decay = None,
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.05,
    smoothing: Smoothing = None,
    hard: Hard = 0.5,
    temperature: Temperature = 2.0,
    features: Features = 1.0,
    augment: Augment = "standard",
    precision: Precision = "auto",
    ema: Ema = 0.998,
    validation: Validation = 0.1,
    keep: Keep = "best",
    patience: Patience = None,
    samples: Count = None,
    seed: Seed = 0,
    workers: Workers = 0,
    loss: Loss = None,
    mean: Mean = None,
    std: Std = None,
    tensorboard: Board = None,
    restart: Restart = False,
    output: o.Output = None,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train a slim network, with the dense one as a teacher where it is given; goes on where it was killed."""
    given = dict(locals())
    from surgeon.tune.options import Tuning

    same = [name for name in Tuning.__annotations__ if name in given]
    asked: dict[str, Any] = {name: given[name] for name in same}
    asked |= {"mean": parse.numbers(mean, "--mean"), "std": parse.numbers(std, "--std")}
    asked |= {"loss": parse.function(loss, "--loss") if loss else None}
    options = Tuning(**asked)
    screen = Screen(json, quiet or not _first())
    how = o.opening(arch, input, allow, unsafe_pickle, threads)
    source = how.open(slim, screen)
    dense = None if teacher is None else how.open(teacher, screen)
    out = output or Path(f"{source.name}-tuned")
    _run((source, dense), (slim, data), options, (out, restart), screen)


def _first() -> bool:
    """Whether this process is the one that speaks; accelerate launch starts several."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _run(
    models: tuple[Source, Source | None],
    refs: tuple[str, str],
    options: Any,
    place: tuple[Path, bool],
    screen: Screen,
) -> None:
    from dataclasses import replace

    import surgeon
    from surgeon.cli.bars import Bars

    (source, dense), (out, restart) = models, place
    if (out / "slim.pth").exists() and (out / "slim.pth").samefile(refs[0]):
        raise BadInput(
            f"{refs[0]} would be replaced by its tuned copy", "name another folder with -o"
        )
    state = out / "tune-state.pt"
    if restart and _first():
        state.unlink(missing_ok=True)
    arch = (source.payload or {}).get("arch") or source.arch or (dense.arch if dense else None)
    options = replace(options, state=state, arch=arch)
    screen.step(f"tune on {refs[1]}" + (", going on where it was" if state.exists() else ""))
    with Bars(not _first() or screen.quiet) as bars:
        teacher = dense.model if dense is not None else None
        like = {"example_inputs": source.inputs, "watch": bars.epoch}
        tuned = surgeon.tune(source.model, refs[1], teacher, options, **like)
    if _first():
        _write(source, tuned, out)
        state.unlink(missing_ok=True)
        screen.notes(tuned.notes)
        screen.show(tuned.summary(), f"written: {out}/")
        screen.data({**tuned.as_dict(), "output": str(out)})
    _part()


def _write(source: Source, tuned: Tuned, out: Path) -> None:
    """Of a slim file, a slim file again; of anything else, its weights."""
    from surgeon.files.retuned import save_tuned
    from surgeon.files.slim import save_safetensors
    from surgeon.report.document import dumps
    from surgeon.report.folder import publish, staging

    with staging(out) as stage:
        said = tuned.as_dict()
        if source.payload is not None:
            how = {name: said[name] for name in ("metric", "before", "score", "epoch")}
            plan = save_tuned(tuned.model, stage / "slim.pth", source.payload, how)
            plan.save(stage / "plan.json")
        save_safetensors(tuned.model, stage / "slim.safetensors")
        (stage / "tune.json").write_text(dumps(said), encoding="utf-8")
        publish(stage, out)


def _part() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
