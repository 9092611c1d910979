"""ncnn: what pnnx makes of a traced network, in one zip."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.measure.runtime import evaluating
from surgeon.quiet import mute
from surgeon.runtimes.flat import Flat
from surgeon.runtimes.runtime import Runtime, not_made
from surgeon.trace.decisions import Decisions

_TITLE = "ncnn"
_TYPES = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "i8",
}  # fmt: skip
_LIMIT_S = 600
# how the script that pnnx writes beside the network calls it
_INPUT = re.compile(r'ex\.input\("(\w+)", ncnn\.Mat\([^\n]*?(?:batch_index=(\d+))?\)\.clone\(\)')
_OUTPUT = re.compile(
    r'ex\.extract\("(\w+)"\)\s*\n\s*out\.append\(.*?\.numpy\((?:batch_index=(\d+))?\)'
)


def _make(model: nn.Module, inputs: Any, path: Path) -> tuple[str, ...]:
    flat = Flat(model, inputs)
    with tempfile.TemporaryDirectory(prefix="surgeon-") as temporary:
        folder = Path(temporary)
        _refuse_decisions(flat)
        try:
            with mute(), evaluating(model), torch.no_grad():
                traced = torch.jit.trace(flat, flat.tensors, check_trace=False)
                torch.jit.save(traced, str(folder / "net.pt"))
        except Exception as error:
            raise not_made(_TITLE, error) from error
        _convert(folder, flat.tensors)
        layers = (folder / "net.ncnn.param").read_text(encoding="utf-8")
        _refuse_unknown(layers)
        call = _call((folder / "net_ncnn.py").read_text(encoding="utf-8"))
        if len(call["inputs"]) != len(flat.tensors):
            raise BadInput(f"{_TITLE} cannot be given this network: pnnx dropped an input of it")
        with zipfile.ZipFile(path, "w") as whole:
            whole.writestr("param", layers)
            whole.write(folder / "net.ncnn.bin", "bin")
            whole.writestr("call.json", json.dumps(call))
    return ()


def _refuse_decisions(flat: Flat) -> None:
    """A trace holds one side of an `if`, whatever the inputs are."""
    with evaluating(flat), torch.no_grad(), Decisions() as decisions:
        flat(*flat.tensors)
    if decisions.read:
        raise BadInput(
            f"{_TITLE} cannot be given this network: its forward reads numbers into Python",
            "another --runtime, such as torch",
        )


def _convert(folder: Path, tensors: tuple[Tensor, ...]) -> None:
    import pnnx  # type: ignore[import-not-found]

    for tensor in tensors:
        if tensor.dtype not in _TYPES:
            raise BadInput(f"{_TITLE} takes no input of {tensor.dtype}")
    shapes = [f"[{','.join(map(str, x.shape))}]{_TYPES[x.dtype]}" for x in tensors]
    command = [pnnx.EXEC_PATH, "net.pt", f"inputshape={','.join(shapes)}", "fp16=0"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise not_made(_TITLE, error) from error
    if done.returncode or not (folder / "net.ncnn.param").is_file():
        said = (done.stderr.strip() or f"pnnx ended with code {done.returncode}").splitlines()[-1]
        raise BadInput(f"{_TITLE} cannot be given this network: {said}", "another --runtime")


def _refuse_unknown(layers: str) -> None:
    """Ops that pnnx could not make a layer of stand in the file under torch's names, which no net loads."""
    kinds = [line.split()[0] for line in layers.splitlines()[2:] if line.split()]
    unknown = sorted({kind for kind in kinds if not kind.isalnum()})
    if unknown:
        raise BadInput(
            f"{_TITLE} cannot be given this network: it has no layer for {', '.join(unknown)}",
            "another --runtime, such as ort",
        )


def _call(script: str) -> dict[str, list[tuple[str, int | None]]]:
    """Inputs and outputs by name, in order, with the dimension that is the batch."""
    return {
        "inputs": [(name, int(at) if at else None) for name, at in _INPUT.findall(script)],
        "outputs": [(name, int(at) if at else None) for name, at in _OUTPUT.findall(script)],
    }


NCNN = Runtime("ncnn", "pnnx", "model-surgeon[ncnn]", _make, title=_TITLE)
