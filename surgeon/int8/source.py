"""The ONNX file of a network in float32 that is to be in whole numbers, and calls of it from real examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import BadInput
from surgeon.measure.runtime import arrays, onnx_bytes
from surgeon.runner.arrays import feed
from surgeon.runner.refusal import Refusal, first_line

if TYPE_CHECKING:
    import numpy as np

    from surgeon.data.samples import Batch
    from surgeon.trace.inputs import Inputs

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WHOLE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")  # fmt: skip
_LARGEST = 2**31
_TWICE = "give the float32 file: surgeon export MODEL -o model.onnx"


class Source:
    """`names`, `sizes` ({name: extents, None where open}) and `batch` (fixed, 0 where open) of a file's inputs.

    BadInput for what is no ONNX file, is not in float32, has nothing to quantise or is above 2 GB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = onnx_bytes(path)
        proto = _loaded(path)
        weights = {weight.name for weight in proto.graph.initializer}
        values = [value for value in proto.graph.input if value.name not in weights]
        self.names = [value.name for value in values]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.sizes = {value.name: _extents(value) for value in values}
        first = self.sizes[self.names[0]] if self.names else []
        self.batch = (first[0] or 0) if first else 0
        _check(proto, path)
        if self.bytes >= _LARGEST:
            raise BadInput(f"{path.name} has more than 2 GB", "int8 is made of smaller files")

    @property
    def like(self) -> Inputs:
        """Zeros of the inputs' sizes: an example for `open_data`; BadInput where more than the batch is open."""
        import torch

        from surgeon.trace.inputs import Inputs

        found = {}
        for name, extents in self.sizes.items():
            if None in extents[1:]:
                raise BadInput(
                    f"{self.path.name} takes {name} of any size: what examples look like is not known",
                    "give the network instead of its ONNX file",
                )
            dtype = torch.float32 if self.types[name] == _float() else torch.int64
            found[name] = torch.zeros([size or 1 for size in extents], dtype=dtype)
        return Inputs((next(iter(found.values())),)) if len(found) == 1 else Inputs((), found)

    def calls(self, batch: Batch) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
        """(what the file takes, the labels) of a batch, in parts where the file's own batch is fixed; a rest that is
        smaller than that is left out."""
        size = self.batch or batch.count
        for at in range(0, batch.count - size + 1, size):
            part = batch.inputs.map(lambda t, at=at: t[at : at + size] if t.dim() else t)
            labels = None if batch.labels is None else batch.labels[at : at + size]
            yield self._fed(arrays(part)), labels

    def _fed(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            fed = feed(self.names, given)
        except Refusal as refusal:
            raise BadInput(f"the data do not fit: {refusal.message}") from refusal
        for name, array in fed.items():
            wanted = self.sizes[name]
            open_or_same = (w in (None, s) for w, s in zip(wanted, array.shape, strict=False))
            if len(wanted) != array.ndim or not all(open_or_same):
                sizes = "x".join("any" if w is None else str(w) for w in wanted)
                raise BadInput(
                    f"the data do not fit: {self.path.name} takes {name} as {sizes}, "
                    f"examples are {'x'.join(map(str, array.shape))}"
                )
        return fed


def _loaded(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise BadInput(f"{path} is no ONNX file: {first_line(error)}", _TWICE) from error
    if not proto.graph.node:
        raise BadInput(f"{path} is no ONNX file, or an empty one", _TWICE)
    return proto


def _check(proto: Any, path: Path) -> None:
    ops = {node.op_type for node in proto.graph.node}
    if whole := sorted(op for op in ops if op in _WHOLE or op.startswith("QLinear")):
        raise BadInput(f"{path.name} is in whole numbers already: it has {whole[0]}", _TWICE)
    types = {weight.name: weight.data_type for weight in proto.graph.initializer}
    heavy = [name for node in proto.graph.node if node.op_type in HEAVY for name in node.input]
    other = next((_other()[types[n]] for n in heavy if types.get(n) in _other()), None)
    if other is not None:
        raise BadInput(f"{path.name} holds {other} numbers; int8 is made of float32", _TWICE)
    if not ops & set(HEAVY):
        raise BadInput(
            f"{path.name} has no convolution and no matrix product: int8 would make nothing faster"
        )


def _other() -> dict[int, str]:
    from onnx import TensorProto

    return {
        TensorProto.FLOAT16: "float16",
        TensorProto.BFLOAT16: "bfloat16",
        TensorProto.DOUBLE: "float64",
    }


def _float() -> int:
    from onnx import TensorProto

    return TensorProto.FLOAT


def _extents(value: Any) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
