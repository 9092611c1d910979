"""The tensors of a module, by name or one by one, and those that a forward or an op takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from surgeon.trace.assigned import assigned
from surgeon.trace.modules import modules_of, paths_of

_TORCH = frozenset(nn.Module().__dict__)  # what every module holds


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name; tied ones under each name, non-persistent ones too."""
    found: dict[str, Tensor] = {}
    for prefix, module in paths_of(model).items():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found[f"{prefix}.{name}" if prefix else name] = tensor
    return found


def parameter_names(model: nn.Module) -> frozenset[str]:
    """The names of its parameters; of tied ones every name."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in paths_of(model).items()
        for name, tensor in module._parameters.items()
        if tensor is not None
    )


def saved_buffers(model: nn.Module) -> frozenset[str]:
    """The names of buffers that a state dict holds. What training alone makes is among them; the others are made anew by the
    code, and often stay unread (a first table of angles)."""
    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in paths_of(model).items()
        for name, tensor in module._buffers.items()
        if tensor is not None and name not in module._non_persistent_buffers_set
    )


def named_loose(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds as a plain attribute (`self.places = torch.rand(...)`), by name. No state dict has them;
    what a cut narrows of them it slices, as it does buffers.

    Not the state under another name, and not what a forward may set: that would be as wide as its code says, and not as cut.
    """
    found = {
        (prefix, name): value
        for prefix, module in paths_of(model).items()
        for name, value in module.__dict__.items()
        if name not in _TORCH and isinstance(value, Tensor)
    }
    if not found:
        return {}
    state = {id(t) for t in named_state(model).values()}
    found = {place: value for place, value in found.items() if id(value) not in state}
    changing = assigned({type(m) for m in modules_of(model)}) if found else frozenset()
    return {f"{p}.{n}" if p else n: t for (p, n), t in found.items() if n not in changing}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state and, behind it, what is held loose: all that a plan may name."""
    return {**named_state(model), **named_loose(model)}


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """A module's own parameters and buffers, and the tensors among its plain attributes."""
    yield from state_of(module)
    yield from loose_of(module)


def state_of(module: nn.Module) -> Iterator[Tensor]:
    """Its own parameters and buffers that a state dict holds."""
    yield from (t for t in module._parameters.values() if t is not None)
    loose = module._non_persistent_buffers_set
    yield from (t for n, t in module._buffers.items() if t is not None and n not in loose)


def loose_of(module: nn.Module) -> Iterator[Tensor]:
    """Its own buffers, and the tensors among its plain attributes."""
    yield from (t for t in module._buffers.values() if t is not None)
    tables = []
    for name, value in module.__dict__.items():
        if name in _TORCH:
            continue
        kind = type(value)
        if kind is dict:
            tables += [value] if value else []
        elif kind is list or kind is tuple:  # LSTM's weights
            yield from (v for v in value if isinstance(v, Tensor))
        elif kind is not bool and isinstance(value, Tensor):
            yield value
    for table in tables:
        yield from (v for v in table.values() if isinstance(v, Tensor))


def tables_of(module: nn.Module) -> dict[str, dict[Any, Any]]:
    """Its own attributes that are dicts with something in them, torch's apart."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if type(value) is dict and value and name not in _TORCH
    }


def tensors_among(args: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an op's arguments, and in lists of them."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from tensors_among(arg)


def output_tensors(output: Any) -> list[Tensor]:
    """All tensors of a model's output: tuples, dicts and plain dataclasses are looked into."""
    return [tensor for _, tensor in named_outputs(output)]


def named_outputs(output: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The same, each with its place: 'logits', 'hidden_states.2', '1'; '' for a tensor by itself."""
    if isinstance(output, Tensor):
        return [(name, output)]
    return [
        found
        for key, part in _parts(output)
        for found in named_outputs(part, f"{name}.{key}".strip("."))
    ]


def _parts(output: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(output, Mapping):
        return output.items()
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return zip(output._fields, output, strict=True)  # type: ignore[attr-defined]
    if isinstance(output, (list, tuple)):
        return enumerate(output)
    if is_dataclass(output) and not isinstance(output, type):
        return ((f.name, getattr(output, f.name)) for f in fields(output))
    leaves = tree_leaves(output)  # a structure that its own package explains to torch
    return enumerate(leaves) if not any(leaf is output for leaf in leaves) else ()
