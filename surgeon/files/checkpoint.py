"""What people save, read safely: state dicts and their wrappers, pickled modules, programs, slim files.

A file's bytes are read once; everything is decided on them, so that what was looked at is what
is loaded.
"""

import difflib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from surgeon.errors import BadInput
from surgeon.files import pickles
from surgeon.files.exported import load_program

SLIM_FORMAT = "surgeon-slim"

# Where training scripts put the weights, and where they put the averaged copy of them.
_PLAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "module",
    "params",
)
_EMA = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "params_ema")
_IGNORED = ("optimizer", "scheduler", "lr_scheduler", "scaler", "amp", "loss", "criterion")
_DEPTH = 4  # of wrappers inside wrappers

# Beginnings of files that are often taken for checkpoints.
_FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself", "run git lfs pull"),
    (b"\x89HDF", "an HDF5 file (Keras?)", "surgeon reads PyTorch checkpoints"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip first"),
    (b"GGUF", "a GGUF file", "surgeon reads PyTorch checkpoints"),
    (b"\x93NUMPY", "a NumPy array", "surgeon reads PyTorch checkpoints"),
)
_RESAVE = "copy or download it again; a checkpoint is written by torch.save or safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    `kind` says which field is set: "state" `state`, "module" `module`, "program" `program`,
    "slim" `payload`; "onnx" sets none, a runtime reads it. `arch` is the
    file's own architecture entry, as written. `notes` say what was unwrapped or left out.
    """

    kind: str
    state: dict[str, Tensor] | None = None
    module: nn.Module | None = None
    program: ExportedProgram | None = None
    payload: dict[str, Any] | None = None
    arch: str | None = None
    notes: tuple[str, ...] = field(default=())


def read(path: str | Path, allow: tuple[str, ...] = (), unsafe_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint; no code of the file runs unless `unsafe_pickle`.

    `allow` names classes (or globs of them) that a pickled module may use beside torch's and
    torchvision's. Errors: BadInput that says what the file is instead, or which classes it wants.
    """
    path = Path(path)
    _guard(path)
    if path.suffix == ".onnx":
        return Checkpoint("onnx")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    if path.suffix == ".safetensors":
        return _safetensors(path, data)
    _guard_content(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about formats; the reader says its own
            if zipfile.is_zipfile(BytesIO(data)):
                return _zip(data, allow, unsafe_pickle)
            return _sort(_legacy(data, allow, unsafe_pickle))
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", error.hint) from error.__cause__
    except Exception as error:
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise BadInput(f"{path}: damaged, or not a checkpoint ({reason})", _RESAVE) from error


def _guard(path: Path) -> None:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".pth", ".pt", ".pt2"))
        hint = (
            f"in it: {', '.join(inside[:5])}" if inside else f"for a model folder write hf:{path}"
        )
        raise BadInput(f"{path}: a directory, not a checkpoint", hint)
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, 3)
        raise BadInput(
            f"{path}: no such file",
            f"did you mean {', '.join(near)}?" if near else "check the path",
        )
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty", _RESAVE)


def _guard_content(path: Path, data: bytes) -> None:
    for start, what, hint in _FOREIGN:
        if data.startswith(start):
            raise BadInput(f"{path}: {what}", hint)
    if data[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(BytesIO(data)):
        raise BadInput(f"{path}: cut off, the end of the archive is missing", _RESAVE)
    head = data[:512]
    if re.match(rb"\s*<(!doctype html|html|\?xml)", head, re.IGNORECASE):
        raise BadInput(
            f"{path}: a web page, not a checkpoint", "download the file itself, not its page"
        )
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        raise BadInput(f"{path}: a text file, not a checkpoint", _RESAVE)


def _safetensors(path: Path, data: bytes) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(data)
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: damaged, or not safetensors ({error})", _RESAVE) from error
    return _tidied(Checkpoint("state", state=state, arch=about.get("arch")))


# containers


def _zip(data: bytes, allow: tuple[str, ...], unsafe: bool) -> Checkpoint:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        record = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if "constants.pkl" in names:
            raise BadInput(
                "a TorchScript archive (torch.jit.save), which holds compiled code",
                "save the state dict of the model it was made from, or torch.export.save it",
            )
        if "models/model.json" in names or "serialized_exported_program.json" in names:
            return _program(data, unsafe)
        if record is None:
            raise BadInput("a zip archive, but not one that torch.save wrote", _RESAVE)
        _guard_sums(archive)
        body = archive.read(record)
    return _sort(_load(data, body, allow, unsafe))


def _guard_sums(archive: zipfile.ZipFile) -> None:
    # torch.load does not compare checksums, and torch.save may be told not to write them: then
    # none fits, while damage leaves some records whole
    records = [info for info in archive.infolist() if info.file_size]
    broken = [info.filename for info in records if not _sum_fits(archive, info)]
    if broken and len(broken) < len(records):
        raise BadInput(f"damaged: {broken[0]} has changed since it was saved", _RESAVE)


def _sum_fits(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    with archive.open(info) as record:
        try:
            while record.read(1 << 24):
                pass
        except zipfile.BadZipFile:
            return False
    return True


def _program(data: bytes, unsafe: bool) -> Checkpoint:
    return Checkpoint("program", program=load_program(data, unsafe))


def _legacy(data: bytes, allow: tuple[str, ...], unsafe: bool) -> Any:
    if data[0] != 0x80 or data[1] > pickle.HIGHEST_PROTOCOL:
        raise BadInput("not a checkpoint: neither an archive nor a pickle", _RESAVE)
    return _load(data, data, allow, unsafe)


def _load(data: bytes, body: bytes, allow: tuple[str, ...], unsafe: bool) -> Any:
    """torch.load of `data`, whose pickle is `body`, with nothing but admitted classes."""
    if unsafe:
        with pickles.own_folder():
            return torch.load(BytesIO(data), map_location="cpu", weights_only=False)
    # before torch 1.6: magic number, version, system, then the object, each a pickle of its own
    wants = pickles.wanted(body, 4 if body is data else 1)
    admitted = pickles.admit(wants, allow)
    try:
        with torch.serialization.safe_globals([*admitted]):
            return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        _explain(error, [name for _, name in admitted], body[1])
        raise


def _explain(error: Exception, wants: list[str], protocol: int) -> None:
    """Name the refusals of torch's safe unpickler that are no damage."""
    text = str(error)
    if "persistent_load" in text:
        why = "a whole module in the format before torch 1.6, which cannot be read safely"
    elif "Unsupported operand" in text and protocol > 2:
        why = f"a pickle of protocol {protocol}, which cannot be read safely; torch.save's is 2"
    elif "Can only" in text or "blocked" in text or "Unsupported global" in text:
        why = "a pickle that does more than rebuild objects"
    else:
        return
    names = f"; it names {', '.join(wants[:5])}" if wants else ""
    raise BadInput(f"{why}{names}", pickles.HINT) from error


# what was in it


def _sort(obj: Any) -> Checkpoint:
    """Tell a slim document, a module and a state dict apart, through any wrappers."""
    if isinstance(obj, dict) and obj.get("format") == SLIM_FORMAT:
        return Checkpoint("slim", payload=obj)
    arch = obj.get("arch") if isinstance(obj, dict) else None
    inner, notes = _unwrap(obj, ())
    arch = arch if isinstance(arch, str) else None
    if isinstance(inner, nn.DataParallel):
        inner, notes = inner.module, (*notes, "taken out of DataParallel")
    if isinstance(inner, nn.Module):
        return Checkpoint("module", module=inner, arch=arch, notes=notes)
    return _tidied(Checkpoint("state", state=inner, arch=arch, notes=notes))


def _unwrap(obj: Any, notes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    if isinstance(obj, nn.Module) or _is_state(obj):
        return obj, notes
    if not isinstance(obj, Mapping) or len(notes) >= _DEPTH or "param_groups" in obj:
        raise _not_a_checkpoint(obj)
    plain = [key for key in _PLAIN if _has_weights(obj.get(key))]
    averaged = [key for key in _EMA if _has_weights(obj.get(key))]
    other = [key for key, v in obj.items() if _has_weights(v) and str(key) not in _IGNORED]
    if key := next(iter([*plain, *averaged]), None):
        left = f", beside an averaged copy in {averaged[0]!r}" if plain and averaged else ""
        return _unwrap(obj[key], (*notes, f"weights taken from {key!r}{left}"))
    if len(other) == 1:
        return _unwrap(obj[other[0]], (*notes, f"weights taken from {other[0]!r}"))
    tensors = {k: v for k, v in obj.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        rest = ", ".join(str(key) for key in obj if key not in tensors)
        return tensors, (*notes, f"entries that are no tensors left out: {rest[:200]}")
    raise _not_a_checkpoint(obj)


def _is_state(obj: Any) -> bool:
    return (
        isinstance(obj, dict)
        and len(obj) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in obj.items())
    )


def _has_weights(value: Any, depth: int = 0) -> bool:
    if isinstance(value, nn.Module):
        return True
    if not isinstance(value, Mapping) or depth >= _DEPTH:
        return False
    return any(isinstance(v, Tensor) or _has_weights(v, depth + 1) for v in value.values())


def _not_a_checkpoint(obj: Any) -> BadInput:
    named = ", ".join(map(repr, list(obj)[:8])) if isinstance(obj, Mapping) else ""
    keys = f" with {named or 'nothing in it'}" if isinstance(obj, Mapping) else ""
    if isinstance(obj, Mapping) and "param_groups" in obj:
        return BadInput("an optimizer's state, without a model's", "save model.state_dict() too")
    return BadInput(
        f"no weights in it: it holds a {type(obj).__name__}{keys}",
        "a checkpoint holds a state dict (or a module): torch.save(model.state_dict(), ...)",
    )


def _tidied(checkpoint: Checkpoint) -> Checkpoint:
    """The state without what wrappers add to names: `module.` and `_orig_mod.`, at any depth."""
    state, notes = checkpoint.state or {}, list(checkpoint.notes)
    if "n_averaged" in state:  # torch.optim.swa_utils.AveragedModel
        state = {name: value for name, value in state.items() if name != "n_averaged"}
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # compiled, parallel, or both
        if stripped := strip_prefix(state, prefix):
            state = stripped
            notes.append(f"prefix {prefix!r} taken off the names")
    return replace(checkpoint, state=state, notes=tuple(notes))


def strip_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    """`state` with `prefix` off every name, or None where not every name has it."""
    if not state or not all(name.startswith(prefix) for name in state):
        return None
    stripped = type(state)((name[len(prefix) :], value) for name, value in state.items())
    versions = getattr(state, "_metadata", None)  # what layers wrote about their own format
    if versions is not None:
        inside = {f"{name}.": version for name, version in versions.items()}
        vars(stripped)["_metadata"] = {
            name[len(prefix) : -1]: v for name, v in inside.items() if name.startswith(prefix)
        }
    return stripped
