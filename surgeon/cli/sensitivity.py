"""`surgeon sensitivity`: what the network loses when each group alone is cut, as a table, a plot and a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli import parse
from surgeon.cli.screen import Screen

if TYPE_CHECKING:
    from surgeon.files.source import Source
    from surgeon.sensitivity.options import Sensing
    from surgeon.sensitivity.record import Sensitivity

Data = Annotated[
    str,
    typer.Option(
        metavar="DATA",
        help="Examples, with labels or without: folder or zip of pictures, .npy, .npz, .pt, file.py:loader",
        show_default=False,
    ),
]
Ratios = Annotated[
    str, typer.Option(metavar="R", help="0.1..0.9 in steps of 0.1, 0.2..0.8:0.3, or 0.1,0.5,0.9")
]
Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="In which order channels go; by default as shrink --data chooses them",
    ),
]
NoFit = Annotated[
    bool, typer.Option("--no-fit", help="Do not fit what takes the channels anew for each cut")
]
Target = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="NAME-sensitivity.json by default; goes on where it is there",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A plot as .svg, .png or .pdf; beside -o as .svg by default"),
]
Seed = Annotated[int, typer.Option(help="Of which examples and which rows of them are taken")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again, not where a run was killed")]


def sensitivity(
    model: o.Model,
    data: Data,
    ratios: Ratios = "0.1..0.9",
    criterion: Criterion = None,
    no_fit: NoFit = False,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    seed: Seed = 0,
    restart: Restart = False,
    plot: Plot = None,
    output: Target = None,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Cut each group alone at several ratios: accuracy where the data have labels, output error where not."""
    from surgeon.report.curves import refuse_unknown
    from surgeon.score import known
    from surgeon.sensitivity.options import Sensing

    screen = Screen(json, quiet)
    how = Sensing(parse.ratios(ratios), criterion, not no_fit, seed=seed)
    if criterion is not None:
        known(criterion)
    if plot is not None:
        refuse_unknown(plot)
    given = c.calibration(data, samples, mean, std, None)
    assert given is not None
    source = o.opening(arch, input, allow, unsafe_pickle, threads).open(model, screen)
    source, learnt = given.opened(source, screen)
    path = output or Path(f"{source.name}-sensitivity.json")
    if restart:
        path.unlink(missing_ok=True)
    found = _measured((source, model), learnt["data"], how, path, screen)
    _tell(source, found, path, _drawn(found, path, plot), screen)


def _measured(
    of: tuple[Source, str], data: Any, how: Sensing, path: Path, screen: Screen
) -> Sensitivity:
    import surgeon
    from surgeon.cli.bars import Bars

    source, ref = of
    screen.step(f"measure, going on where {path} ends" if path.exists() else "measure")
    try:
        with Bars(screen.quiet) as bars:
            return surgeon.sensitivity(
                source.model, source.inputs, data, how, file=path, source=ref, watch=bars.group
            )
    except KeyboardInterrupt:
        if path.exists():
            screen.notes([f"{path} holds what is measured; the same command goes on from there"])
        raise


def _drawn(found: Sensitivity, path: Path, plot: Path | None) -> Path:
    """Where the plot is."""
    from surgeon.report.curves import draw

    place = plot or path.with_suffix(".svg")
    draw(found.as_dict(), place)
    return place


def _tell(source: Source, found: Sensitivity, path: Path, plot: Path, screen: Screen) -> None:
    from surgeon.report import tables

    report = found.as_dict()
    report["notes"] = [*source.notes, *report["notes"]]
    screen.notes(report["notes"])
    screen.show(tables.sensitivity(report), "")
    dense = "".join(f", {k[:3]}-{k[3:]} {v:.1%}" for k, v in report["data"]["dense"].items())
    screen.show(f"the whole network on {report['data']['examples']} examples{dense}")
    screen.show(f"written: {path}, {plot}")
    screen.data({**report, "output": str(path), "plot": str(plot)})
