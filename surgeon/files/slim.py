"""slim.pth: a cut model that loads without pickle. State, plan, and how to rebuild the network.

A dict for `torch.load(weights_only=True)`: tensors and strings only. The network comes back from its
arch reference (torchvision, timm) and the plan, or from the program stored as data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from surgeon.cut.choose import cut_fitting
from surgeon.errors import BadInput, SurgeonError
from surgeon.files.atomic import write_bytes
from surgeon.files.codec import decode, encode
from surgeon.plan import Plan, fingerprint
from surgeon.trace.captured import CAPTURED
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import FIXED, Program, to_program
from surgeon.trace.tensors import named_loose, named_state

FORMAT, VERSION = "surgeon-slim", 1
BUILDABLE = ("torchvision:", "timm:")  # references that run no source of the user's


def save(result: Any, path: str | Path, arch: str | None = None) -> tuple[str, ...]:
    """Write slim.pth, whole or not at all; give what should be said of it: sizes that are fixed in it
    though they are not in the module.

    result: what `shrink` gave. arch: the reference that the original was built from; without one
    that can be built again, the program is stored beside the weights. A network that has neither is stored
    as weights and plan, and needs a fresh instance of its class to be loaded. Raises BadInput where the file
    cannot be written.
    """
    document, lacks = document_of(result.model, result.plan, result.inputs, arch)
    packed = BytesIO()  # on a full disk torch.save itself fails with an error that does not say so
    torch.save(document, packed)
    write_bytes(Path(path), packed.getbuffer())
    if lacks:
        name = Path(path).name
        return (
            f"{name} holds weights and plan, and no network, as {lacks}: load it with a fresh instance of its class, "
            f"surgeon.load('{name}', model=Net()), or --arch file.py:Net",
        )
    if document["program"] is None or document["way"] == "program":
        return ()
    return tuple(
        f"{Path(path).name}, where it is loaded without the network's class, holds a program: {note}"
        for note in json.loads(document["program"])["notes"]
        if note.startswith((CAPTURED, FIXED))
    )


def save_safetensors(model: nn.Module, path: str | Path) -> None:
    """The state alone, for everyone else."""
    state = {n: t.detach().contiguous().clone() for n, t in model.state_dict().items()}
    write_bytes(Path(path), to_safetensors(state))


def document_of(
    model: nn.Module, plan: Plan, inputs: Inputs, arch: str | None
) -> tuple[dict[str, Any], str]:
    """What slim.pth holds: tensors, and JSON in strings. And why no network is in it, where there is none."""
    rebuilt = not isinstance(model, Program) and _rebuilds(arch, plan)
    program, encoded, lacks = (None, None, "") if rebuilt else _program(model, inputs)
    extra = {n: t.detach().clone() for n, t in named_loose(model).items() if n in plan.keep}
    if program is not None:
        named = program.tensors()
        extra |= {n: t.detach() for n, t in named.items() if n not in program.state_dict()}
    state = program.state_dict() if program is not None else model.state_dict()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "way": "program" if isinstance(model, Program) else "module",
        "state": {n: t.detach().clone() for n, t in state.items()},
        "constants": extra,
        "plan": json.dumps(plan.to_json()),
        "program": json.dumps(encoded) if encoded is not None else None,
    }
    return document, lacks


def _rebuilds(arch: str | None, plan: Plan) -> bool:
    """Whether the reference alone gives the original back: ten classes instead of 1000 it does not say."""
    if arch is None or not arch.startswith(BUILDABLE):
        return False
    shapes = {n: tuple(t.shape) for n, t in named_state(_built(arch)).items()}
    return fingerprint(shapes) == plan.model.get("fingerprint")


def _program(model: nn.Module, inputs: Inputs) -> tuple[Program | None, dict[str, Any] | None, str]:
    """The network as a program and that as a document, or why there is none."""
    if isinstance(model, Program):
        return model, encode(model), ""
    try:
        program = to_program(model, inputs)
        return program, encode(program), ""
    except SurgeonError as error:
        return None, None, error.message


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The slim model of a slim.pth, in eval mode.

    model: a fresh instance of the user's own class, which is cut and filled (a copy of it is); else
    the recorded architecture or the stored program. Raises BadInput for anything that is not a
    sound slim.pth. No code of the file runs.
    """
    from surgeon.files.checkpoint import read

    found = read(path)
    if found.payload is None:
        raise BadInput(f"{path} is not a slim.pth", "surgeon.files.open_model opens other files")
    return load_payload(found.payload, model)


def load_payload(payload: Mapping[str, Any], model: nn.Module | None = None) -> nn.Module:
    """The model of an opened slim document."""
    _sound(payload)
    arch, way = payload["arch"], payload["way"]
    if model is not None and way == "program":
        raise BadInput(
            "this network was cut as a program: its class cannot run the slim weights",
            "load it without model=",
        )
    if model is None and payload["program"] is not None:
        return decode(
            _json(payload["program"]), {**payload["state"], **payload["constants"]}
        ).eval()
    if model is None:
        model = _built(arch)
    return _filled(model, plan_of(payload), payload["state"], payload["constants"])


def plan_of(payload: Mapping[str, Any]) -> Plan:
    """The plan stored in a slim document."""
    return Plan.from_json(_json(payload["plan"]))


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the slim file is damaged: {error}") from None


def _sound(payload: Mapping[str, Any]) -> None:
    if payload.get("format") != FORMAT or payload.get("version") != VERSION:
        raise BadInput(
            f"slim file version {payload.get('version')!r}; this surgeon reads {VERSION}"
        )
    missing = {"arch", "way", "state", "constants", "plan", "program"} - set(payload)
    if missing:
        raise BadInput(f"the slim file is damaged: it has no {', '.join(sorted(missing))}")
    tensors = (payload["state"], payload["constants"])
    if not all(
        isinstance(x, dict) and all(isinstance(t, Tensor) for t in x.values()) for x in tensors
    ):
        raise BadInput("the slim file is damaged: its state is not a table of tensors")


def _built(arch: Any) -> nn.Module:
    from surgeon.files.arch import build

    if not isinstance(arch, str) or not arch.startswith(BUILDABLE):
        raise BadInput(
            "the slim file holds neither a program nor an architecture that can be built",
            "pass a fresh instance of the class: surgeon.load(path, model=Net()), or --arch file.py:Net",
        )
    return build(arch).model


def _set_loose(slim: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give plain attributes the tensors of the file, which a fresh instance may have drawn otherwise."""
    for name, own in named_loose(slim).items():
        if name not in stored:
            continue
        if stored[name].shape != own.shape:
            raise BadInput(f"the slim file is damaged: {name} is {list(stored[name].shape)}")
        path, _, leaf = name.rpartition(".")
        setattr(slim.get_submodule(path), leaf, stored[name].to(own))


def _filled(
    model: nn.Module, plan: Plan, state: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> nn.Module:
    from surgeon.pipeline.cached import with_cache
    from surgeon.pipeline.replay import inputs_of
    from surgeon.pipeline.traced import trace

    traced = trace(model, inputs_of(plan))
    made, found = cut_fitting(traced.model, traced.inputs, traced.coupling, plan)
    if found is not None:
        raise BadInput(
            f"the recorded cut does not fit this model: {found.why}", "build it as the original was"
        )
    slim = made.model
    try:
        slim.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).strip().split("\n")[1:2]
        raise BadInput(
            f"the slim weights do not fit this model: {''.join(first).strip()}",
            "it must be built as the original was",
        ) from None
    _set_loose(slim, {n: t for n, t in constants.items() if n in plan.keep})
    with_cache(model, slim, traced.inputs, traced.coupling, plan)
    return slim
