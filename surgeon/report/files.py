"""Every file of a shrink: the model in each form that it has, the plan, and the report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from surgeon.errors import BadInput, CheckFailed
from surgeon.export import export_onnx
from surgeon.files.atomic import write_bytes, write_text
from surgeon.files.slim import save, save_safetensors
from surgeon.measure.bench import made
from surgeon.measure.readers import READ_ONNX
from surgeon.measure.target import Target
from surgeon.report.document import dumps
from surgeon.report.page import page
from surgeon.report.sweep_page import sweep_page
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import Program

if TYPE_CHECKING:
    from surgeon.pipeline.result import Result

# What the exporter remembers of the source code, local paths among it.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom")


def write_models(
    result: Result,
    folder: Path,
    arch: str | None,
    original: nn.Module | None,
    progress: Callable[[str], None],
) -> tuple[str, ...]:
    """Write slim.pth, slim.safetensors, plan.json and, for a program, slim.pt2; with an original slim.onnx.

    Gives what should be said about them. Raises CheckFailed where the ONNX file computes something
    else though the original's does not, BadInput where a file cannot be written.
    """
    notes: list[str] = []
    progress("write slim.pth, slim.safetensors, plan.json")
    notes += save(result, folder / "slim.pth", arch)
    save_safetensors(result.model, folder / "slim.safetensors")
    result.plan.save(folder / "plan.json")
    if isinstance(result.model, Program):
        progress("write slim.pt2")
        notes += write_program(result.model, folder / "slim.pt2", result.inputs)
    if original is not None:
        progress("export slim.onnx, compare it with PyTorch")
        notes += _write_onnx(result, folder / "slim.onnx", original)
    if result.limited is not None:
        notes += _write_measured(result, result.limited.target, folder, progress)
    return tuple(notes)


def _write_measured(
    result: Result, target: Target, folder: Path, progress: Callable[[str], None]
) -> tuple[str, ...]:
    """The file that the target runs, where that is no ONNX file."""
    if target.runtime in READ_ONNX:
        return ()
    progress(f"write slim for {target.runtime}")
    path = made(result.model, result.inputs.first(), target, folder / "slim")
    return (f"{path.name}: what was measured with {target.runtime}",)


def write_reports(report: dict[str, Any], folder: Path) -> None:
    """Write report.json and report.html, each whole or not at all."""
    text = dumps(report)
    write_text(folder / "report.json", text)
    write_text(folder / "report.html", page(json.loads(text)))


def write_sweep(found: dict[str, Any], folder: Path) -> None:
    """Write sweep.json (the data of `surgeon.report.sweep.sweep`) and sweep.html."""
    text = dumps(found)
    write_text(folder / "sweep.json", text)
    write_text(folder / "sweep.html", sweep_page(json.loads(text)))


def write_program(program: Program, path: Path, inputs: Inputs) -> tuple[str, ...]:
    """Write the program as a .pt2, which runs with torch alone; a note where torch cannot export it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = _exported(program, inputs)
            packed = BytesIO()
            torch.export.save(exported, packed)
    except Exception as error:  # noqa: BLE001 - torch raises whatever comes; slim.pth holds the same
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (
            f"no slim.pt2: torch.export.save fails ({reason}); slim.pth holds the same program",
        )
    write_bytes(path, packed.getbuffer())
    return ()


def _exported(program: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    dynamic = getattr(program, "dynamic_batch", False) and inputs.batch
    if dynamic:
        inputs = inputs.two_at_least()  # torch.export takes a batch of one for a constant
    call = inputs.args, dict(inputs.kwargs)
    shapes = torch.export.ShapesCollection()
    if dynamic:
        for tensor in inputs.tensors:
            if tensor.dim():
                shapes[tensor] = {0: torch.export.Dim("batch", min=1)}
    given = shapes.dynamic_shapes(program, *call)
    exported = torch.export.export(program, *call, dynamic_shapes=given, strict=False)
    for node in exported.graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
    return exported


def _write_onnx(result: Result, path: Path, original: nn.Module) -> tuple[str, ...]:
    try:
        limited = result.limited is not None  # then what is delivered is what was measured
        inputs = result.inputs.first() if limited else result.inputs
        file = export_onnx(result.model, path, inputs, dynamic_batch=not limited)
    except CheckFailed as error:
        if _differs(original, result.inputs):
            return (
                f"no slim.onnx: {error.message}; the original's file differs from PyTorch, too: "
                "it is the export, not the cut",
            )
        raise CheckFailed(error.message, "--no-onnx writes everything else") from error
    except BadInput as error:
        if isinstance(error.__cause__, OSError):
            raise
        return (f"no slim.onnx: {error.message}",)
    return (
        f"slim.onnx: opset {file.opset}, equal to PyTorch within {file.worst_error:.0e}",
        *file.notes,
    )


def _differs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether ONNX Runtime computes something else from this model's own file (ties of scores, say)."""
    with TemporaryDirectory() as folder:
        try:
            export_onnx(model, Path(folder) / "original.onnx", inputs)
        except CheckFailed:
            return True
        except BadInput:
            return False
    return False
