"""What a network costs: parameters, FLOPs, bytes, peak memory, and latency on a real runtime.

Importing this loads neither torch nor a runtime; calling `measure` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.measure.latency import Budget, Comparison, Ratio, Timing, compare, time_one

if TYPE_CHECKING:
    import torch

    from surgeon.measure.facts import Facts

__all__ = [
    "Budget",
    "Comparison",
    "Measurement",
    "Ratio",
    "Timing",
    "compare",
    "compare_models",
    "measure",
    "time_one",
]


@dataclass(frozen=True)
class Measurement:
    """What one network costs.

    `flops` and `macs` are per example, a multiply-add being one; `bytes` is the state dict,
    `onnx_bytes` the deployable file, `peak_memory` bytes above the bare runtime; `latency` is of one
    call with the inputs as given; `zeros` are among the parameters, `zipped` bytes of the weights. None where it was not asked for or could not be had; `notes` says
    why, and names the ops that the FLOPs leave out. `profile`: seconds of one run by layer, {"layer", "op", "s", "module"?} each.
    """

    params: int
    flops: int
    macs: int
    bytes: int
    onnx_bytes: int | None
    latency: Timing | None
    peak_memory: int | None
    runtime: str
    threads: int
    zeros: int = 0
    zipped: int | None = None
    notes: tuple[str, ...] = ()
    profile: tuple[Mapping[str, Any], ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in seconds. `profile` is there where the runtime told it."""
        found = {**asdict(self), "notes": list(self.notes)}
        return (
            found
            if found.pop("profile") is None
            else {**found, "profile": list(self.profile or ())}
        )


def measure(
    model: torch.nn.Module,
    inputs: Any,
    *,
    latency: bool = True,
    onnx: str | Path | None = None,
    budget: Budget | None = None,
    threads: int = 1,
) -> Measurement:
    """Count `model` and time it in ONNX Runtime, in PyTorch where it cannot be exported.

    `inputs` as for `model.forward`: a tensor, a sequence or a mapping of keywords. `onnx` is the
    model's exported file, if there is one already; otherwise one is made and thrown away.
    `latency=False` only counts. Raises BadInput where the forward fails.
    """
    from surgeon.measure.count import flops, parameters, state_bytes
    from surgeon.metrics.sparsity import zeros

    counted = flops(model, inputs)
    notes = [f"FLOPs leave out {', '.join(counted.uncounted)}"] if counted.uncounted else []
    file_bytes = timing = memory = None
    runtime = ""
    if latency:
        with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
            path, reason = _onnx(model, inputs, onnx, Path(folder))
            notes += reason
            if path is None:
                timing, runtime = _in_torch(model, inputs, budget, threads)
            else:
                timing, told = _in_ort(path, inputs, budget, threads)
                file_bytes, memory, runtime = told.file_bytes, told.peak_memory, told.title
    return Measurement(
        params=parameters(model),
        flops=counted.total,
        macs=counted.macs,
        bytes=state_bytes(model),
        onnx_bytes=file_bytes,
        latency=timing,
        peak_memory=memory,
        runtime=runtime,
        threads=threads,
        zeros=zeros(model),
        notes=tuple(notes),
    )


def compare_models(
    before_onnx: str | Path,
    after_onnx: str | Path,
    inputs: Any,
    budget: Budget | None = None,
    threads: int = 1,
) -> Comparison:
    """Time two ONNX files interleaved in ONNX Runtime, in a process of their own; the ratio is after to before.

    Raises BadInput for a file that ONNX Runtime cannot load or inputs that it does not take.
    """
    from surgeon.measure.bench import timed
    from surgeon.measure.target import Target

    files = {"before": Path(before_onnx), "after": Path(after_onnx)}
    return timed(files, inputs, Target(threads=threads), budget)


def _onnx(
    model: torch.nn.Module, inputs: Any, onnx: str | Path | None, folder: Path
) -> tuple[Path | None, list[str]]:
    """The file to time; none, and why, where there is none and none can be made."""
    if onnx is not None:
        return Path(onnx), []
    # Export is above measure in the map: only this call uses it.
    from surgeon.export import export_onnx

    try:
        return export_onnx(model, folder / "model.onnx", inputs, dynamic_batch=False).path, []
    except SurgeonError as error:
        return None, [f"timed in PyTorch, as there is no ONNX file: {error.message}"]


def _in_torch(
    model: torch.nn.Module, inputs: Any, budget: Budget | None, threads: int
) -> tuple[Timing, str]:
    from surgeon.measure.runtime import TorchRunner

    runner = TorchRunner(model, inputs, threads)
    return time_one(runner, budget), f"{runner.runtime} {runner.version}"


def _in_ort(path: Path, inputs: Any, budget: Budget | None, threads: int) -> tuple[Timing, Facts]:
    from surgeon.measure.bench import timed
    from surgeon.measure.target import Target

    found = timed({"model": path}, inputs, Target(threads=threads), budget, ("memory",))
    return found.timings["model"], found.facts["model"]
