"""`surgeon export`: an ONNX file whose outputs were compared with PyTorch's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from surgeon.cli import options as o
from surgeon.cli.screen import Screen

Target = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; NAME.onnx by default"),
]
Fixed = Annotated[bool, typer.Option("--fixed-batch", help="The input's own batch, no other")]


def export(
    model: o.Model,
    output: Target = None,
    fixed_batch: Fixed = False,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model as ONNX, checked against PyTorch; the batch stays open where it can."""
    from surgeon.export import export_onnx
    from surgeon.report.text import size

    screen = Screen(json, quiet)
    source = o.opening(arch, input, allow, unsafe_pickle, threads).open(model, screen)
    path = output or Path(f"{source.name}.onnx")
    screen.step(f"export {path}, compare it with PyTorch")
    file = export_onnx(source.model, path, source.inputs, dynamic_batch=not fixed_batch)
    screen.notes(file.notes)
    batch = "any batch" if file.dynamic_batch else "fixed batch"
    screen.show(
        f"{file.path}: {size(file.bytes)}, opset {file.opset}, IR {file.ir_version}, {batch}, "
        f"equal to PyTorch within {file.worst_error:.0e} of the output's range"
    )
    screen.data({**asdict(file), "path": str(file.path), "notes": [*source.notes, *file.notes]})
