"""A report as TensorBoard's event files: what it cost at step 0 and costs at step 1, widths along the network, texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from surgeon.errors import BadInput
from surgeon.quiet import quiet
from surgeon.report import text
from surgeon.report.asked import goals
from surgeon.report.sweep import compared_by, quality, speed

Scalar = tuple[str, float, int]  # tag, value, step

_COSTS = ("params", "flops", "macs", "bytes", "zipped", "onnx_bytes", "peak_memory")


def write_events(folder: Path, scalars: list[Scalar], texts: Mapping[str, str]) -> None:
    """Event files under `folder`. BadInput where tensorboard is not installed, or the folder cannot be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise BadInput("tensorboard is not installed", "pip install 'model-surgeon[tune]'")
    try:
        with quiet():
            _write(folder, scalars, texts)
    except OSError as error:
        why = error.strerror or str(error)
        raise BadInput(f"--tensorboard {folder}: {why}", "name another folder") from error


def _write(folder: Path, scalars: list[Scalar], texts: Mapping[str, str]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for tag, value, step in scalars:
            writer.add_scalar(tag, value, step)
        for tag, said in texts.items():
            writer.add_text(tag, said)


def of_report(report: Mapping[str, Any]) -> tuple[list[Scalar], dict[str, str]]:
    """Scalars and texts of report.json's data."""
    asked = [f"- {g['what']}: asked {g['asked']}, reached {g['reached']}" for g in goals(report)]
    notes = [f"- {note}" for note in report["notes"]]
    texts = {
        "asked": "\n".join(asked),
        "outcome": "\n".join(f"- {line}" for line in text.outcome(dict(report))),
        "notes": "\n".join(notes),
    }
    return list(_scalars(report)), {tag: said for tag, said in texts.items() if said}


def _scalars(report: Mapping[str, Any]) -> Iterator[Scalar]:
    for step, side in enumerate(("before", "after")):
        own = (report["measured"] or {}).get(side, {})
        for key in _COSTS:
            if own.get(key) is not None:
                yield f"cost/{key}", own[key], step
        if own.get("latency"):
            yield "cost/latency_ms", 1e3 * own["latency"]["median_s"], step
        if report.get("metric"):
            yield f"metric/{report['metric']['name']}", report["metric"][side], step
        accuracy = (report.get("metrics") or {}).get("accuracy") or {}
        for key, value in accuracy.get(side, {}).items():
            yield f"accuracy/{key}", value, step
        for at, layer in enumerate((report.get("network") or {}).get("layers", ())):
            if "out" in layer:
                yield f"widths/{side}", layer["out"][step], at
    if report.get("check"):
        yield "proof/error", report["check"]["error"], 1


def of_sweep(found: Mapping[str, Any]) -> tuple[list[Scalar], dict[str, str]]:
    """Scalars of sweep.json's data, a step a cut."""
    which = compared_by(found)
    scalars: list[Scalar] = []
    for step, one in enumerate(r for r in found["rows"] if "why" not in r):
        for tag, value in (("latency_ratio", speed(one)), (which, quality(one, which))):
            if value is not None:
                scalars.append((f"sweep/{tag}", value, step))
        scalars += [(f"sweep/{key}", one[key], step) for key in ("params", "flops")]
    lines = [f"- {r['limit']}: {r.get('why') or r['folder']}" for r in found["rows"]]
    return scalars, {"limits": "\n".join(lines)}
