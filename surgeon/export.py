"""One ONNX file, written only after ONNX Runtime gave PyTorch's numbers from it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from surgeon.errors import BadInput, CheckFailed, SurgeonError
from surgeon.files.atomic import regular
from surgeon.measure.count import state_bytes
from surgeon.measure.runtime import OrtRunner, as_array, evaluating, named_tensors
from surgeon.older import OneSide, export_run
from surgeon.quiet import mute
from surgeon.strip import keep_outputs, strip
from surgeon.trials import Case, first_line
from surgeon.witness import Met, Point, Witness, choose, follow

EXTERNAL_DATA_BYTES = 1_900_000_000  # protobuf ends at 2 GiB, weights and graph together
_FOUND = 1e-3  # of the range of a few scores or boxes, which lie close together
_TRACED = "exported by tracing one run, whose sizes are fixed"
_SPECIALIZED = "your code specialized it to be a constant"


@dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX file.

    `opset` and `ir_version` are read back from the file; `bytes` includes external data
    (`<name>.data`, only from 2 GB). `worst_error` is the largest difference from PyTorch over all
    outputs and trials, relative to the output's range. `inside` is how many results of layers were compared as well,
    where the outputs alone do not tell: a detector finds nothing, or rounding decides between two boxes, and PyTorch
    then goes on from what the file computed. `notes` says what differs from what was asked.
    """

    path: Path
    opset: int
    ir_version: int
    bytes: int
    dynamic_batch: bool
    worst_error: float
    outputs_equal: bool
    inside: int = 0
    notes: tuple[str, ...] = ()


def export_onnx(
    model: nn.Module, path: str | Path, inputs: Any, *, dynamic_batch: bool = True
) -> OnnxFile:
    """Export `model` in eval mode to `path`, compare it with PyTorch, and only then put it there.

    `inputs` as for the forward: a tensor, a sequence, or a mapping of keywords. With
    `dynamic_batch`, dim 0 of every input that is as long as the first one's is left open; where the network does not
    allow it the batch is fixed and `notes` says so. Outputs of any structure come out flat.

    Raises BadInput where the folder cannot be written, the forward fails, PyTorch cannot export
    the model or ONNX Runtime cannot run it, and CheckFailed, naming the output, where ONNX Runtime
    computes something else. In every such case, and when interrupted, an older file at `path` is still there and nothing else.
    """
    path = Path(path)
    if path.is_dir():
        raise BadInput(f"{path} is a folder", "name a file, such as slim.onnx")
    path = regular(path)
    case = Case(model, inputs)
    notes: list[str] = []
    with _scratch(path) as folder, evaluating(model), torch.no_grad():
        if dynamic_batch and case.batch:
            try:
                return _attempt(case, folder, path, dynamic=True)
            except SurgeonError as error:
                notes.append(f"batch fixed at {case.batch}: {error.message}")
        elif dynamic_batch:
            notes.append("batch fixed: the inputs have no dim 0")
        return _attempt(case, folder, path, dynamic=False, notes=tuple(notes))


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference relative to the range of `want`; infinite where the two cannot be compared.

    For a range below a tenth of the largest magnitude (a constant, a lone number) that tenth is the
    scale, since rounding grows with magnitude. If all of `want` is zero, anything else is infinitely
    wrong. NaN and infinities must be in the same places. For integers and booleans: the share of
    elements that differ.
    """
    if got.shape != want.shape:
        return float("inf")
    if want.size == 0:
        return 0.0
    if not np.issubdtype(want.dtype, np.floating):
        return float(np.mean(got != want))
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return float("inf")
    got, want = got[finite], want[finite]
    worst = float(np.max(np.abs(got - want), initial=0.0))
    if not np.isfinite(worst):
        return float("inf")
    if worst == 0:
        return 0.0
    scale = max(float(np.ptp(want)), 0.1 * float(np.max(np.abs(want))))
    return worst / scale if scale > 0 else float("inf")


def _attempt(
    case: Case, folder: Path, path: Path, *, dynamic: bool, notes: tuple[str, ...] = ()
) -> OnnxFile:
    """Write into `folder`, check there, move to `path`."""
    draft = folder / path.name
    witness, said = _write(case, draft, dynamic)
    if any(note.startswith(_TRACED) for note in said):
        notes = ()  # all sizes are fixed, and the batch for the same reason
    trials = [_compare(case, draft, flat, witness) for flat in case.trials(dynamic)]
    if witness is not None:
        _take_out(draft, case, any(trial.inside for trial in trials))
    proto = onnx.load(str(draft), load_external_data=False)
    notes += said + _said(trials)
    size = sum(file.stat().st_size for file in folder.iterdir())
    # the data first: an old graph beside new data is the shorter moment, and needs 2 GB to happen
    for file in sorted(folder.iterdir(), key=lambda file: file == draft):
        os.replace(file, path.with_name(file.name))
    opset = {entry.domain: entry.version for entry in proto.opset_import}
    return OnnxFile(
        path=path,
        opset=opset.get("", 0),
        ir_version=proto.ir_version,
        bytes=size,
        dynamic_batch=dynamic,
        worst_error=max(trial.worst for trial in trials),
        outputs_equal=True,
        inside=max(trial.inside for trial in trials),
        notes=notes,
    )


def _write(case: Case, draft: Path, dynamic: bool) -> tuple[Witness | None, tuple[str, ...]]:
    """The file by the exporter that can write it, what is in it beside the outputs, and what is to be said of that."""
    # the model's own error comes first, not the exporter's account of it
    first = case.call(next(case.trials(dynamic)))
    witness = None if any(array.size for _, array in first) else _witness(case)
    notes = ()
    try:
        with mute():  # the exporter's talk; what matters comes as an exception
            _exported(case, draft, dynamic, witness)
    except OSError as error:
        raise _unwritable(draft, error) from error
    except Exception as error:
        if dynamic and _SPECIALIZED in str(error):
            # torch's own first line is "Constraints violated (batch)!"
            raise BadInput("the forward makes a plain number of it, as len(x) does") from error
        if dynamic:
            raise _not_exported(error) from error
        witness = _traced(case, draft, error)
        case.tolerance = max(case.tolerance, _FOUND)
        notes = (f"{_TRACED}, as torch.export refuses: {first_line(error)}",)
    try:
        onnx.checker.check_model(str(draft))
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"the ONNX file is not valid: {first_line(error)}") from error
    return witness, notes


def _witness(case: Case) -> Witness:
    return Witness(case.model, choose(case.model, lambda: case.outputs(case.flat)))


def _exported(case: Case, draft: Path, dynamic: bool, witness: Witness | None) -> None:
    from onnxscript.optimizer import fold_constants, remove_unused_nodes  # slow to import

    external = state_bytes(case.model) > EXTERNAL_DATA_BYTES
    program = torch.onnx.export(
        case.program(dynamic, witness), dynamo=True, optimize=False, verbose=False
    )
    assert program is not None  # only the old exporter returns nothing
    # its optimizer tries every rule on every node before it drops one: most are sizes, known by now
    fold_constants(program.model)
    remove_unused_nodes(program.model)
    program.optimize()
    program.save(draft, external_data=external)
    _stripped(draft)


def _traced(case: Case, draft: Path, refused: Exception) -> Witness:
    """By torch's older exporter, which knows the ops of torchvision's detectors."""
    args, kwargs = case.arguments()
    witness = _witness(case)
    try:
        export_run(witness, args, kwargs, draft)
        _stripped(draft)
    except OneSide as error:
        refusal = _not_exported(refused)
        refusal.hint = (
            f"{error} reads a number of the data, and a file would hold one side of what follows"
        )
        raise refusal from refused
    except OSError as error:
        raise _unwritable(draft, error) from error
    except Exception:  # noqa: BLE001  the newer exporter's own reason says more
        raise _not_exported(refused) from refused
    return witness


def _stripped(draft: Path) -> None:
    proto = onnx.load(str(draft), load_external_data=False)
    strip(proto)
    draft.write_bytes(proto.SerializeToString())


def _take_out(draft: Path, case: Case, decided: bool) -> None:
    """The model's own outputs alone stay, and are what they were. decided: rounding may change them."""
    proto = onnx.load(str(draft), load_external_data=False)
    count = len(case.call(case.flat))
    before = _given(draft, case.flat)[:count]
    keep_outputs(proto, count)
    draft.write_bytes(proto.SerializeToString())
    after = _given(draft, case.flat)
    same = len(after) == count and all(map(partial(_near, case), after, before))
    if len(after) != count or not (same or decided):
        raise CheckFailed("the ONNX file has other outputs without the results inside")


def _unwritable(draft: Path, error: OSError) -> BadInput:
    return BadInput(f"cannot write {draft.name}: {error.strerror or error}", "is the disk full?")


def _not_exported(error: Exception) -> BadInput:
    return BadInput(
        f"PyTorch cannot export this model to ONNX: {first_line(error)}",
        "torch.onnx.export(model, inputs, dynamo=True, report=True) tells more",
    )


_DETERMINISTIC = "is the model deterministic, with no dropout left on in eval mode?"
_CLOSE = (
    "the layers agree up to the first choice by value; where scores lie as close together as rounding, as with untrained "
    "weights, the file may choose otherwise: export a trained network, on inputs that it knows"
)
_DRAWS = ": the model draws random numbers in eval mode"


@dataclass(frozen=True)
class _Trial:
    """What one comparison found: the worst relative error, outputs that hold one number everywhere, and, if the outputs
    alone did not tell, how many results inside the network are equal and how many tell nothing."""

    worst: float
    constant: frozenset[str]
    inside: int = 0
    left: int = 0
    empty: bool = False


def _said(trials: list[_Trial]) -> tuple[str, ...]:
    """What is to be known of a comparison that passed."""
    notes: tuple[str, ...] = ()
    if constant := frozenset.intersection(*(trial.constant for trial in trials)):
        names = ", ".join(sorted(constant))
        notes += (f"{names} is constant here: that it is equal says little about the weights",)
    inside, left = max(t.inside for t in trials), max(t.left for t in trials)
    rest = (
        f"; {left} behind a choice that rounding may have made otherwise were not compared"
        * bool(left)
    )
    if all(trial.empty for trial in trials):
        notes += (
            f"all outputs are empty on these inputs; {inside} results inside are equal{rest}"
            if inside
            else "all outputs are empty on these inputs, so nothing was compared",
        )
    elif inside:
        notes += (
            f"rounding decides between some of the outputs; PyTorch makes the same of the file's {inside} results inside{rest}",
        )
    return notes


def _compare(case: Case, draft: Path, flat: list[Any], witness: Witness | None) -> _Trial:
    """PyTorch's outputs beside the file's; where they are empty or differ, the results inside, one after the other.

    CheckFailed if an error is above the tolerance.
    """
    want = case.call(flat)
    got = _given(draft, flat)
    inside = dict(zip(witness.met, got[len(want) :], strict=False)) if witness else {}
    if len(got) != len(want) + len(inside):
        raise CheckFailed(f"the ONNX file has {len(got)} outputs, the model {len(want)}")
    got = got[: len(want)]
    errors = _errors(got, want)
    met: list[Met] = []
    left: list[Point] = []
    empty = not any(w.size for _, w in want)
    constant = frozenset(name for name, w in want if w.size and (w == w.flat[0]).all())
    if inside and (empty or max(errors.values(), default=0.0) > case.tolerance):
        outputs, met, left = follow(
            case.model, lambda: case.outputs(flat), inside, partial(_near, case)
        )
        then = [(name, as_array(tensor)) for name, tensor in named_tensors(outputs)]
        errors = {f"{p.path or 'the model'}'s result": relative_error(g, w) for p, g, w in met}
        errors |= _errors(got, then)
    name, worst = max(errors.items(), key=lambda item: item[1], default=("", 0.0))
    if worst > case.tolerance:
        again = (array for _, array in case.call(flat))
        draws = any(relative_error(a, w) for a, (_, w) in zip(again, want, strict=True))
        raise CheckFailed(
            f"{name} of the ONNX file differs from PyTorch by {worst:.2g} of its range "
            f"(allowed: {case.tolerance:.0e})" + _DRAWS * draws,
            _CLOSE if met and name in dict(want) else _DETERMINISTIC,
        )
    return _Trial(worst, constant, len(met), len(left), empty)


def _given(draft: Path, flat: list[Any]) -> Sequence[np.ndarray]:
    """What ONNX Runtime gives."""
    try:
        return OrtRunner(draft, [x for x in flat if isinstance(x, Tensor)]).outputs()
    except BadInput as error:
        hint = "PyTorch runs it; ONNX Runtime lacks many operators in types other than float32"
        raise BadInput(error.message, hint) from error


def _near(case: Case, got: np.ndarray, want: np.ndarray) -> bool:
    return relative_error(got, want) <= case.tolerance


def _errors(got: Sequence[np.ndarray], want: list[tuple[str, np.ndarray]]) -> dict[str, float]:
    return {name: relative_error(g, w) for g, (name, w) in zip(got, want, strict=True)}


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside `path`, gone afterwards, so that moving out of it is one rename."""
    try:
        folder = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise BadInput(
            f"cannot write into {path.parent}: {error.strerror}", "choose another folder"
        ) from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
