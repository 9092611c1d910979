"""What shrink and apply share once they know how to cut: prove, write, measure, show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.cli.interrupt import stop_if_pressed
from surgeon.cli.screen import Screen
from surgeon.errors import SurgeonError
from surgeon.measure.target import Target

if TYPE_CHECKING:
    from surgeon.files.source import Source
    from surgeon.measure.pair import BeforeAfter
    from surgeon.pipeline.result import Result


@dataclass(frozen=True)
class Delivery:
    """Where the result goes, and what is wanted of it."""

    target: Target
    output: Path | None = None
    measure: bool = True
    onnx: bool = True
    metric: str | None = None
    examples: Any = None  # batches that both networks are run on
    held_out: bool | None = False  # whether the cut sees none of them; None: not known


def deliver(source: Source, cut: Callable[[], Result], wanted: Delivery, screen: Screen) -> None:
    """As `delivered`, and show it."""
    _show(delivered(source, cut, wanted, screen), screen)


def delivered(
    source: Source, cut: Callable[[], Result], wanted: Delivery, screen: Screen
) -> dict[str, Any]:
    """Cut, write the folder, then measure; a failed check or an error before that writes nothing. Gives the report."""
    from surgeon.report.files import write_models, write_reports
    from surgeon.report.folder import publish, staging
    from surgeon.report.metric import load_metric

    out = wanted.output or Path(f"{source.name}-slim")
    metric = load_metric(wanted.metric) if wanted.metric else None
    with staging(out) as stage:
        scores = _score(
            metric, source.model, wanted, screen
        )  # first: a metric that fails costs nothing
        result = cut()
        result = replace(result, notes=(*source.notes, *result.notes))
        original = source.model if wanted.onnx else None
        said = write_models(result, stage, source.arch, original, screen.step)
        result = replace(result, notes=(*result.notes, *said))
        write_reports(_report(result, source.arch, (out, stage)), stage)
        stop_if_pressed()
        publish(stage, out)
    try:
        result = _measured(source, result, out, wanted, screen)
        scores |= {} if metric is None else {"after": metric(result.model)}
    except KeyboardInterrupt:
        screen.notes([f"{out} is complete, only its measurements are missing"])
        raise
    report = _report(result, source.arch, (out, out), scores or None)
    write_reports(report, out)
    return report


def _score(metric: Any, model: Any, wanted: Delivery, screen: Screen) -> dict[str, Any]:
    if metric is None:
        return {}
    screen.step(f"{wanted.metric} of the original")
    return {"name": str(wanted.metric).rpartition(":")[2], "before": metric(model)}


def _measured(
    source: Source, result: Result, out: Path, wanted: Delivery, screen: Screen
) -> Result:
    from surgeon.pipeline.slower import notes_of

    measured, notes = None, ()
    try:
        measured = _taken(source, result, out, wanted, screen)
        notes = notes_of(measured, result.plan, wanted.target)
    except SurgeonError as error:  # the cut is proven and written all the same
        notes = (f"not measured: {error.message}",) if measured is None else measured.notes
    result = replace(result, measured=measured, notes=(*result.notes, *notes))
    if wanted.examples is None:
        return result
    from surgeon.pipeline.evaluated import evaluate

    screen.step("run both on the examples")
    seen = evaluate(source.model, result.model, wanted.examples, wanted.held_out)
    return replace(result, evaluation=seen)


def _taken(
    source: Source, result: Result, out: Path, wanted: Delivery, screen: Screen
) -> BeforeAfter:
    """What both cost: as the limits' last round measured it, timed now, or only counted."""
    from surgeon.measure.pair import before_after, counted

    models, onnx = (source.model, result.model), out / "slim.onnx"
    if result.limited is not None and result.measured is not None:
        return replace(result.measured, notes=())
    if wanted.measure and wanted.onnx and onnx.exists():
        screen.step("measure both, interleaved")
        return before_after(*models, result.inputs, onnx, target=wanted.target)
    return counted(*models, result.inputs)


def _report(
    result: Result,
    arch: str | None,
    places: tuple[Path, Path],
    metric: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """report.json. arch: what the source's weights belong to; places: where the folder will be, and where its files are now."""
    from surgeon import __version__
    from surgeon.report.folder import MODELS

    out, now = places
    files = {
        name: (now / name).stat().st_size
        for name in (*MODELS, "plan.json")
        if (now / name).exists()
    }
    about = {"surgeon": __version__, "output": str(out), "arch": arch, "files": files}
    return {**about, "metric": metric, **result.as_dict()}


def _show(report: dict[str, Any], screen: Screen) -> None:
    from surgeon.report import tables, text

    screen.notes(report["notes"])
    costs = tables.before_after(report)
    screen.show(*([costs, ""] if costs.row_count else []))
    screen.show(*text.outcome(report), f"written: {report['output']}/")
    screen.data(report)
