"""A pair, before and after: two networks counted, exported and timed side by side."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.measure import Budget, Comparison, Measurement, measure
from surgeon.measure.bench import made, timed
from surgeon.measure.layers import with_modules
from surgeon.measure.readers import READ_ONNX
from surgeon.measure.target import Target

if TYPE_CHECKING:
    from torch import nn

    from surgeon.trace.inputs import Inputs


@dataclass(frozen=True)
class BeforeAfter:
    """What the original and the slim network cost; `speed` is their interleaved timing, None where
    there is no ONNX file to time (`notes` says why)."""

    before: Measurement
    after: Measurement
    speed: Comparison | None
    notes: tuple[str, ...] = ()

    def with_speed(self, speed: Comparison) -> BeforeAfter:
        """With what was measured of files named 'before' and 'after'."""
        both = [
            replace(
                count,
                onnx_bytes=speed.facts[name].file_bytes,
                latency=speed.timings[name],
                peak_memory=speed.facts[name].peak_memory,
                runtime=speed.facts[name].title,
                threads=speed.facts[name].threads,
                profile=speed.facts[name].profile,
            )
            for name, count in (("before", self.before), ("after", self.after))
        ]
        return BeforeAfter(both[0], both[1], speed, self.notes)

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "latency_ratio": self.speed.as_dict()["ratios"] if self.speed else None,
            "notes": list(self.notes),
        }


def before_after(
    model: nn.Module,
    slim: nn.Module,
    inputs: Any,
    slim_onnx: Path | None = None,
    budget: Budget | None = None,
    target: Target | None = None,
) -> BeforeAfter:
    """Count both, export what is not exported yet, time both interleaved on `target` (ONNX Runtime here by default).

    Latency is of one example: inputs that share a batch are narrowed to one, but for a program that was
    captured with another batch.
    """
    counts = counted(model, slim, inputs)
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        try:
            place = Path(folder), slim_onnx
            speed = _timed((model, slim), _one(slim, inputs), place, target or Target(), budget)
        except SurgeonError as error:
            return replace(counts, notes=(f"not timed: {error.message}",))
    return counts.with_speed(speed)


def counted(model: nn.Module, slim: nn.Module, inputs: Any) -> BeforeAfter:
    """Parameters, FLOPs and bytes of both, without timing."""
    before, after = (_counted(m, inputs) for m in (model, slim))
    return BeforeAfter(before, after, None)


def _counted(model: nn.Module, inputs: Any) -> Measurement:
    from surgeon.metrics.zipped import zipped_bytes

    counts = measure(model, inputs, latency=False)
    return replace(counts, zipped=zipped_bytes(model))


def _timed(
    models: tuple[nn.Module, nn.Module],
    inputs: Inputs,
    places: tuple[Path, Path | None],
    target: Target,
    budget: Budget | None,
) -> Comparison:
    folder, slim_onnx = places
    if slim_onnx is not None and not (target.runtime in READ_ONNX and _takes(slim_onnx, inputs)):
        slim_onnx = None
    old = made(models[0], inputs, target, folder / "before.onnx")
    new = slim_onnx or made(models[1], inputs, target, folder / "after.onnx")
    files = {"before": old, "after": new}
    return with_modules(timed(files, inputs, target, budget, ("memory", "profile")), files)


def _takes(path: Path, inputs: Inputs) -> bool:
    """Whether an ONNX file takes as many examples: its batch is open, or fixed at theirs."""
    import onnx

    shapes = [
        i.type.tensor_type.shape.dim for i in onnx.load(path, load_external_data=False).graph.input
    ]
    return all(
        not dims or not t.dim() or dims[0].dim_value in (0, len(t))
        for dims, t in zip(shapes, inputs.tensors, strict=False)
    )


def _one(slim: nn.Module, inputs: Any) -> Inputs:
    from surgeon.trace.inputs import Inputs
    from surgeon.trace.program import Program

    one = single(inputs)
    fixed = isinstance(slim, Program) and not slim.takes(one)
    return Inputs.of(inputs) if fixed else one


def single(inputs: Any) -> Inputs:
    """The first example of inputs that share a batch; as they are where they do not."""
    from surgeon.trace.inputs import Inputs

    return Inputs.of(inputs).first()
