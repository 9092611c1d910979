"""Static quantisation by ONNX Runtime's own tools: a float32 file and real examples become a file in eight bits."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import BadInput
from surgeon.files.atomic import whole
from surgeon.int8.judge import judge
from surgeon.int8.kinds import Kind, kind_of
from surgeon.int8.source import HEAVY, Source
from surgeon.pipeline.evaluated import Evaluation
from surgeon.quiet import mute
from surgeon.runner.refusal import first_line
from surgeon.strip import strip

if TYPE_CHECKING:
    import numpy as np

    from surgeon.data.samples import Batch

_FAR = 0.1  # of the outputs' variance: more is worth a word


@dataclass(frozen=True)
class Int8File:
    """A file in eight bits at `path`: `bytes` of it, `float_bytes` of the one it was made of.

    `kind`: how, in words ('U8S8 by channel'), for `target`. `layers` of `heavy` convolutions and matrix products run in
    whole numbers. `worst_error`: the largest difference of an output relative to its range; `seen`: the outputs' error
    relative to their variance, and both accuracies where there were labels.
    """

    path: Path
    target: str
    kind: str
    bytes: int
    float_bytes: int
    layers: int
    heavy: int
    calibrated_on: int
    worst_error: float
    seen: Evaluation
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {**asdict(self), "path": str(self.path), "seen": self.seen.as_dict()}
        return {**plain, "notes": list(self.notes)}


def quantize(
    onnx: str | Path,
    path: str | Path,
    data: Iterable[Batch],
    *,
    target: str | None = None,
    eval_data: Iterable[Batch] | None = None,
) -> Int8File:
    """Write the ONNX file `onnx` (float32) in eight bits to `path`: QDQ, scales from the ranges that numbers have on `data`.

    `data`: batches as `surgeon.open_data` gives them, gone through twice. `target`: x86-vnni, x86 or arm; this
    machine's by default. Errors are told on `eval_data`, or else on `data`. Raises BadInput for a file that is no
    network in float32, for data that do not fit and where ONNX Runtime cannot do it; `path` is then as it was.
    """
    kind, source = kind_of(target), Source(Path(onnx))
    seen = _Seen(source, data)
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder, whole(Path(path)) as draft:
        made = Path(folder) / "int8.onnx"
        _made(source, seen, kind, Path(folder), made)
        layers, heavy = _layers(made)
        told, worst = judge(
            source, made, data if eval_data is None else eval_data, eval_data is not None
        )
        shutil.copyfile(made, draft)
    notes = [f"{kind.said}, for {kind.name}: {kind.why}"]
    if seen.left:
        notes.append(f"{seen.left} examples were left out: the file takes {source.batch} at once")
    if told.error > _FAR:
        notes.append(
            f"outputs are {told.error:.2g} of their variance apart: try more examples (--samples)"
        )
    size = Path(path).stat().st_size
    return Int8File(
        Path(path), kind.name, kind.said, size, source.bytes, layers, heavy, seen.count, worst, told, tuple(notes)
    )  # fmt: skip


class _Seen:
    """The examples as ONNX Runtime reads them for calibration: one call after the other, then None."""

    def __init__(self, source: Source, data: Iterable[Batch]) -> None:
        self.count = self.left = 0
        self._source, self._data = source, data
        self._calls = self._all()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """As its CalibrationDataReader says."""
        return next(self._calls, None)

    def _all(self) -> Iterator[dict[str, np.ndarray]]:
        for batch in self._data:
            done = 0
            for fed, _ in self._source.calls(batch):
                done += self._source.batch or batch.count
                yield fed
            self.count += done
            self.left += batch.count - done


def _made(source: Source, seen: _Seen, kind: Kind, folder: Path, made: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    CalibrationDataReader.register(_Seen)  # an abstract class: what it asks for is there
    try:
        with mute():
            quantize_static(
                _ready(source, folder),
                made,
                seen,  # type: ignore[arg-type]
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=kind.narrow,
                activation_type=QuantType.QInt8 if kind.signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            _tidied(made)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(
            f"int8 cannot be written: {error.strerror or error}", "is the disk full?"
        ) from error
    except Exception as error:
        if not seen.count:
            raise BadInput(
                "there are no examples to calibrate on", "give --data with some"
            ) from error
        raise BadInput(
            f"ONNX Runtime cannot make int8 of {source.path.name}: {first_line(error)}"
        ) from error


def _ready(source: Source, folder: Path) -> Path:
    """With constants folded and all shapes known, as ONNX Runtime can; the file itself where it cannot."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = folder / "ready.onnx"
    for symbolic in (False, True):
        try:
            quant_pre_process(str(source.path), str(ready), skip_symbolic_shape=symbolic)
        except Exception:  # noqa: BLE001  its shape inference does not know every op
            continue
        return ready
    return source.path


def _tidied(made: Path) -> None:
    import onnx

    proto = onnx.load(str(made))
    strip(proto)
    onnx.save(proto, str(made))


def _layers(made: Path) -> tuple[int, int]:
    """(layers whose operands are dequantised, all that could be) of convolutions and matrix products."""
    import onnx

    nodes = onnx.load(str(made)).graph.node
    whole_numbers = {out for n in nodes if n.op_type == "DequantizeLinear" for out in n.output}
    heavy = [node for node in nodes if node.op_type in HEAVY]
    return sum(set(node.input[:2]) <= whole_numbers for node in heavy), len(heavy)
