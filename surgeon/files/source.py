"""A model as the user named it: whatever the form, a module in eval mode with inputs it runs on."""

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from surgeon.errors import BadInput
from surgeon.files import arch as arches
from surgeon.files import fit, inputs
from surgeon.files.checkpoint import Checkpoint, read, strip_prefix
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import from_exported
from surgeon.trace.recorded import recorded

# Prefixes that only some scripts add, taken off where the names fit nothing otherwise.
_MAYBE_PREFIXES = ("model.", "net.", "backbone.", "encoder.")

# torchvision's published DenseNets are from before module names could not hold dots
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")


@dataclass(frozen=True)
class Source:
    """An opened model.

    `model` is in eval mode, `inputs` are example inputs (batch 2 where guessed), `name`
    is short and good for file names, `arch` the reference the model was built from (None for a
    pickled module or a program), `notes` are sentences the user should see, `payload` is the
    slim document and `program` the exported program that it came from.
    """

    model: nn.Module
    inputs: Inputs
    name: str
    arch: str | None = None
    notes: tuple[str, ...] = field(default=())
    payload: dict[str, Any] | None = None
    program: ExportedProgram | None = None


@dataclass(frozen=True)
class _Opened:
    """A model before it has inputs; `shape` is what its library documents."""

    model: nn.Module
    arch: str | None = None
    inputs: Inputs | None = None
    shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def open_model(
    ref: str | Path,
    arch: str | None = None,
    input: str | Inputs | None = None,
    allow: tuple[str, ...] = (),
    unsafe_pickle: bool = False,
) -> Source:
    """Open a checkpoint (with `arch`, where it needs one) or an architecture reference.

    `arch` is `torchvision:NAME`, `timm:NAME`, `hf:FOLDER` or `path/to/file.py:factory`; `input`
    like "1,3,224,224", see `parse_inputs`, or the inputs themselves. A factory that a file names is never run by itself.
    Errors: BadInput, with what to do, for everything that cannot be used.
    """
    given = inputs.parse_inputs(input) if isinstance(input, str) else input
    if _is_reference(str(ref)):
        opened = _built(str(ref), arch)
        return _finish(opened, _short(str(ref)), given)
    if not Path(ref).exists() and str(ref) in arches.torchvision_names():
        raise BadInput(f"{ref}: no such file", f"for the architecture write torchvision:{ref}")
    checkpoint = read(ref, allow, unsafe_pickle)
    source = _finish(_open(checkpoint, str(ref), arch), Path(ref).stem, given)
    return Source(**{**vars(source), "payload": checkpoint.payload, "program": checkpoint.program})


def _is_reference(ref: str) -> bool:
    return not Path(ref).exists() and bool(re.match(r"[a-z]{2,}:|.*\.py(:|$)", ref))


def _short(ref: str) -> str:
    return Path(ref.rpartition(":")[2]).name or "model"


def _built(ref: str, arch: str | None) -> _Opened:
    if arch is not None and arch != ref:
        raise BadInput(
            f"{ref} is an architecture already, and --arch names another", "leave --arch out"
        )
    built = arches.build(ref)
    random = " with random weights: sizes and times are real, accuracy is not"
    note = f"{ref} ({built.note}){' with its weights' if built.trained else random}"
    return _Opened(built.model, ref, built.inputs, built.default_shape, (note,))


def _open(checkpoint: Checkpoint, ref: str, arch: str | None) -> _Opened:
    if checkpoint.kind == "onnx":
        raise BadInput(f"{ref}: an ONNX file can be measured, not cut", "give the PyTorch model")
    if checkpoint.kind == "slim":
        return _slim(checkpoint, arch)
    if checkpoint.kind == "program":
        return _program(checkpoint)
    if checkpoint.kind == "module" and checkpoint.module is not None:
        unused = ("--arch not needed: the file holds the whole module",) if arch else ()
        return _Opened(checkpoint.module, notes=(*checkpoint.notes, *unused))
    return _state(checkpoint, ref, arch)


def _slim(checkpoint: Checkpoint, arch: str | None) -> _Opened:
    # imported late: it cuts, and cutting is above opening in the map
    slim = importlib.import_module("surgeon.files.slim")
    # a network that was cut as a program comes back from its program, whatever it was built from
    as_program = (checkpoint.payload or {}).get("way") == "program"
    base = arches.build(arch).model if arch is not None and not as_program else None
    model = slim.load_payload(checkpoint.payload, model=base)
    made_with = slim.plan_of(checkpoint.payload).model.get("inputs")
    given = inputs.refilled(recorded(made_with))
    return _Opened(model, arch, given, notes=checkpoint.notes)


def _program(checkpoint: Checkpoint) -> _Opened:
    program = checkpoint.program
    assert program is not None  # what kind "program" means
    given = Inputs(*program.example_inputs) if program.example_inputs else None
    return _Opened(from_exported(program), inputs=given, notes=checkpoint.notes)


# a state dict and its architecture


def _state(checkpoint: Checkpoint, ref: str, arch: str | None) -> _Opened:
    said = ()
    if arch is None and (arch := _own_arch(checkpoint)):
        said = (f"architecture {arch}, as {Path(ref).name} says",)
    if arch is None:
        raise _needs_arch(checkpoint, ref)
    built = arches.build(arch)
    state, said_so = renamed(checkpoint.state or {}, built.model)
    built, found, rebuilt = _fitted(built, arch, state)
    if found:
        # transformers renames what it saves: only its own loader knows the names in the folder
        hint = f"{arch} alone opens the folder's weights" if built.trained else _other_fits(state)
        raise BadInput(f"{ref} does not fit {arch}\n{found}", hint)
    fit.load(state, built.model)
    notes = (*checkpoint.notes, *said, *said_so, *rebuilt, *_widened(state))
    return _Opened(built.model, arch, built.inputs, built.default_shape, notes)


def _widened(state: dict[str, Tensor]) -> tuple[str, ...]:
    half = {v.dtype for v in state.values() if v.dtype in (torch.float16, torch.bfloat16)}
    return tuple(f"{str(dtype)[6:]} weights, computed in float32 from here on" for dtype in half)


def _own_arch(checkpoint: Checkpoint) -> str | None:
    """The file's own entry, where it names a library's model; a path in a file is never run."""
    own = checkpoint.arch
    if own is None or own.startswith(("torchvision:", "timm:")):
        return own
    # the ImageNet training example writes torchvision's bare name
    return f"torchvision:{own}" if own in arches.torchvision_names() else None


def _needs_arch(checkpoint: Checkpoint, ref: str) -> BadInput:
    state, own = checkpoint.state or {}, checkpoint.arch
    if own is not None:
        return BadInput(
            f"{ref} says that its architecture is {own!r}; what a file names is not run by itself",
            f"if you trust that, add --arch {own}",
        )
    fits = _fits(state)
    if not fits:
        return BadInput(
            f"{ref} holds weights and no architecture, and no torchvision model fits them",
            "add --arch torchvision:NAME, timm:NAME, hf:FOLDER or path/to/file.py:factory",
        )
    others = f" (also fits: {', '.join(fits[1:4])})" if fits[1:] else ""
    return BadInput(
        f"{ref} holds weights and no architecture; they fit {fits[0]}{others}",
        f"add --arch {fits[0].split()[0]}",
    )


def _fits(state: dict[str, Tensor]) -> list[str]:
    stripped = (strip_prefix(state, prefix) for prefix in _MAYBE_PREFIXES)
    for names in (state, *(s for s in stripped if s)):
        if fits := fit.which_fit(_modern_names(names)):
            return fits
    return []


def _other_fits(state: dict[str, Tensor]) -> str:
    fits = _fits(state)
    return f"they fit {fits[0]}: --arch {fits[0].split()[0]}" if fits else "check --arch"


def renamed(
    state: dict[str, Tensor], model: nn.Module
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """`state` under the names that this model has, where a known prefix or old spelling differs."""
    own, notes = model.state_dict().keys(), ()
    for prefix in _MAYBE_PREFIXES:
        stripped = strip_prefix(state, prefix)
        if stripped and len(own & stripped.keys()) > len(own & state.keys()):
            state, notes = stripped, (f"prefix {prefix!r} taken off the names",)
    modern = _modern_names(state)
    state = modern if len(own & modern.keys()) > len(own & state.keys()) else state
    return _masked(state, model, notes)


def _masked(
    state: dict[str, Tensor], model: nn.Module, notes: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights in place of the pairs that torch.nn.utils.prune keeps them as, where the model has no masks."""
    own = model.state_dict().keys()
    pairs = [n for n in own - state.keys() if {f"{n}_orig", f"{n}_mask"} <= state.keys() - own]
    if not pairs:
        return state, notes
    out = dict(state)
    for name in pairs:
        out[name] = out.pop(f"{name}_orig") * out.pop(f"{name}_mask")
    said = f"masks of torch.nn.utils.prune multiplied into {len(pairs)} weights"
    return out, (*notes, said)


def _modern_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(_OLD_DENSENET.match(name) for name in state):
        return state
    return {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}


def _fitted(
    built: arches.Built, arch: str, state: dict[str, Tensor]
) -> tuple[arches.Built, fit.Difference, tuple[str, ...]]:
    """`built`, or the same architecture with the options that make it fit, and what differs still."""
    found = fit.difference(state, built.model)
    options = fit.options_for(state, found) if arches.takes_options(arch) else {}
    if not options:
        return built, found, ()
    try:
        again = arches.build(arch, options)
    except BadInput:  # this factory takes no such option
        return built, found, ()
    still = fit.difference(state, again.model)
    if still:
        return built, found, ()
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    return again, still, (f"{arch} built with {said}, as the weights have it",)


# inputs, and the last look


def _finish(opened: _Opened, name: str, given: Inputs | None) -> Source:
    model = opened.model
    model.eval()
    notes = [*opened.notes, *_bad_numbers(model)]
    if given is None:
        given, why = _inputs(opened, name)
        notes.append(f"input {_describe(given)}: {why}")
    return Source(model, given, name, opened.arch, tuple(notes))


def _inputs(opened: _Opened, name: str) -> tuple[Inputs, str]:
    if opened.inputs is not None:
        return opened.inputs, "recorded with the model"
    if opened.shape is not None:
        return Inputs.of(inputs.example(opened.shape)), f"the default of {opened.arch}"
    guess = inputs.guess_input(opened.model)
    if guess is None:
        own = inputs.refusal(opened.model)
        raise BadInput(
            f"{name}: no input could be guessed that this model accepts"
            + (f"\n  its forward fails with {own}" if own else ""),
            "say its sizes, for example --input 1,3,224,224 (several: 1,3,64,64;1,10:int64, "
            "named: input_ids=1,16:int64)",
        )
    return guess.inputs, guess.why


def _describe(given: Inputs) -> str:
    shapes = (f"{','.join(map(str, x.shape))}:{str(x.dtype)[6:]}" for x in given.tensors)
    named = (
        f"{name}={shape}" if name in given.kwargs else shape
        for name, shape in zip(given.names, shapes, strict=True)
    )
    return ";".join(named).replace(":float32", "")


def _bad_numbers(model: nn.Module) -> list[str]:
    bad = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not bool(value.sum(dtype=torch.float64).isfinite())
    ]
    if not bad:
        return []
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return [f"NaN or infinite weights in {', '.join(bad[:3])}{more}"]
