"""`surgeon export`: an ONNX file whose outputs were compared with PyTorch's, or one in eight bits made of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import calibrate as c
from surgeon.cli import options as o
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from surgeon.int8.quantize import Int8File

Target = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write; NAME.onnx by default"),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Weights and activations of eight bits, scaled on --data")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Examples for --int8, of the kind it will see: folder or zip of pictures, .npy, .npz, .pt, file.py:loader",
    ),
]
Processor = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="CPU",
        help="What --int8 is for: x86-vnni, x86 or arm; this machine by default",
    ),
]
Fixed = Annotated[bool, typer.Option("--fixed-batch", help="The input's own batch, no other")]


def export(
    model: o.Model,
    output: Target = None,
    fixed_batch: Fixed = False,
    int8: Int8 = False,
    data: Data = None,
    samples: c.Count = None,
    mean: c.Mean = None,
    std: c.Std = None,
    eval_data: c.EvalData = None,
    target: Processor = None,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a model as ONNX, checked against PyTorch; the batch stays open where it can. With --int8 in eight bits."""
    from surgeon.export import export_onnx
    from surgeon.report.text import size

    screen = Screen(json, quiet)
    opening = o.opening(arch, input, allow, unsafe_pickle, threads)
    wanted = _wanted(int8, c.calibration(data, samples, mean, std, None), eval_data, target)
    if wanted is not None:
        _int8(model, output, not fixed_batch, opening, wanted, screen)
        return
    source = opening.open(model, screen)
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


@dataclass(frozen=True)
class _Wanted:
    given: c.Calibration
    eval_data: str | None
    target: str | None


def _wanted(
    int8: bool, given: c.Calibration | None, eval_data: str | None, target: str | None
) -> _Wanted | None:
    """None where eight bits are not asked for; BadInput for half of a request."""
    from surgeon.int8.kinds import kind_of

    about = {"--data": given, "--eval-data": eval_data, "--target": target}
    if not int8:
        if said := [name for name, value in about.items() if value is not None]:
            raise BadInput(f"{said[0]} is about --int8", "add --int8, or leave it out")
        return None
    if given is None:
        raise BadInput(
            "--int8 needs examples: the range of every activation is taken from them",
            "give --data: a folder of pictures, arrays or file.py:loader; 128 examples will do",
        )
    return _Wanted(given, eval_data, kind_of(target).name)


def _int8(
    model: str,
    output: Path | None,
    dynamic: bool,
    opening: o.Opening,
    wanted: _Wanted,
    screen: Screen,
) -> None:
    from surgeon.report.text import int8

    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        onnx, like, arch, name = _float(model, dynamic, opening, Path(folder), screen)
        path = output or Path(f"{name}-int8.onnx")
        found = _quantized(onnx, path, (like, arch), wanted, screen)
    screen.notes(found.notes)
    screen.show(*int8(found))
    screen.data(found.as_dict())


def _float(
    model: str, dynamic: bool, opening: o.Opening, folder: Path, screen: Screen
) -> tuple[Path, Any, str | None, str]:
    """(the file in float32, inputs that examples are like, what architecture it is, its name)."""
    from surgeon.export import export_onnx
    from surgeon.int8.source import Source

    if model.endswith(".onnx"):
        return Path(model), Source(Path(model)).like, None, Path(model).stem
    source = opening.open(model, screen)
    screen.step("export it, compare it with PyTorch")
    file = export_onnx(source.model, folder / "float.onnx", source.inputs, dynamic_batch=dynamic)
    screen.notes(file.notes)
    return file.path, source.inputs, (source.payload or {}).get("arch") or source.arch, source.name


def _quantized(
    onnx: Path, path: Path, known: tuple[Any, str | None], wanted: _Wanted, screen: Screen
) -> Int8File:
    from surgeon.data import open_data
    from surgeon.int8.quantize import quantize

    like, arch = known
    options = replace(wanted.given.options, arch=arch)
    screen.step(f"look at {wanted.given.ref}")
    samples = open_data(wanted.given.ref, like, options)
    screen.notes(samples.notes)
    held = None
    if wanted.eval_data is not None:
        held = open_data(wanted.eval_data, like, replace(options, samples=None))
        screen.notes(f"--eval-data: {note}" for note in held.notes)
    screen.step(f"quantise to {path}, compare it with float32")
    return quantize(onnx, path, samples, target=wanted.target, eval_data=held)
