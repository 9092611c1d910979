"""Inputs as plan.json holds them: shapes, types and structure; real numbers are read back as noise, integers as they were.

    [{"shape": [2, 3, 224, 224], "dtype": "float32"},                            the first position
     {"name": "attention_mask", "shape": [2, 16], "dtype": "int64", "fill": 1},  a keyword
     {"list": [{"shape": ...}, {"shape": ...}]}, {"value": true}]                structure, constants

`fill` is the largest number of an integer tensor, 0 where it is not said; `numbers` are all of them, in a row, where
they are not one and the same, nor too many: a forward may look at them, and by tokens that are all the same an expert
or two would be reached. Without them, each is the largest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

_MANY = 65_536  # integers that are written down
_PLAIN = (bool, int, float, str, type(None))
_HINT = "give example inputs (--input)"


def describe(inputs: Inputs) -> list[dict[str, Any]]:
    """One entry an argument, positions first."""
    named = ({"name": name, **_entry(value)} for name, value in inputs.kwargs.items())
    return [*map(_entry, inputs.args), *named]


def recorded(entries: Any) -> Inputs:
    """The call that `describe` wrote down: noise in tensors of real numbers, which a forward may sort or send
    different ways, in the others the numbers that were there, or one.

    Raises BadInput where there is none, or where it cannot be read.
    """
    if not entries:
        raise BadInput("the plan records no inputs", _HINT)
    try:
        noise = torch.Generator().manual_seed(0)
        args = tuple(_value(entry, noise) for entry in entries if "name" not in entry)
        kwargs = {str(entry["name"]): _value(entry, noise) for entry in entries if "name" in entry}
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"the plan's inputs cannot be read: {error}", _HINT) from None
    return Inputs(args, kwargs)


def _entry(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        entry = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        return entry | _whole_numbers(value)
    if isinstance(value, Mapping):
        return {"dict": {str(key): _entry(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_entry(item) for item in value]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    return {"object": type(value).__name__}


def _whole_numbers(tensor: Tensor) -> dict[str, Any]:
    """What is said of the numbers of an integer tensor; nothing of one that holds none to see."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_meta or not tensor.numel():
        return {}
    least, largest = int(tensor.min()), int(tensor.max())
    said: dict[str, Any] = {"fill": largest} if largest else {}
    if least != largest and tensor.numel() <= _MANY:
        said["numbers"] = tensor.flatten().to(torch.int64).tolist()
    return said


def _value(entry: Mapping[str, Any], noise: torch.Generator) -> Any:
    if "shape" in entry:
        shape, dtype = tuple(entry["shape"]), getattr(torch, entry["dtype"])
        if dtype.is_floating_point:
            return torch.randn(shape, generator=noise).to(dtype)
        if "numbers" in entry:
            return torch.tensor(entry["numbers"]).to(dtype).reshape(shape)
        return torch.full(shape, entry.get("fill", 0), dtype=dtype)
    if "list" in entry:
        return _values(entry["list"], noise)
    if "tuple" in entry:
        return tuple(_values(entry["tuple"], noise))
    if "dict" in entry:
        return {key: _value(item, noise) for key, item in entry["dict"].items()}
    if "object" in entry:
        raise ValueError(f"a {entry['object']} is no tensor, and was not stored")
    return entry["value"]


def _values(entries: Sequence[Mapping[str, Any]], noise: torch.Generator) -> list[Any]:
    return [_value(entry, noise) for entry in entries]
