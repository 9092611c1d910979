"""A module's copy, as `copy.deepcopy`'s and several times quicker: most of that time goes to empty hook tables.

Functions that hold what was copied hold the copies there, which deepcopy leaves as they are.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from threading import Lock, RLock
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from surgeon.trace.rebound import rebind

_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type, type(...), FunctionType,
     BuiltinFunctionType, torch.dtype, torch.device}
)  # fmt: skip
_SHARED = frozenset({type({}.keys()), ModuleType, type(Lock()), type(RLock())})  # deepcopy refuses
_TABLES = (dict, OrderedDict)


def copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy(module, memo)`, its functions rebound. A class that says how it is copied is copied as it says."""
    new = _module(module, memo)
    rebind(new, memo)
    return new


def _module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    known = memo.get(id(module))
    if known is not None:
        return known
    kind = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)
    new = memo[id(module)] = kind.__new__(kind)
    state = getattr(module, "__getstate__", module.__dict__.copy)()
    # as deepcopy does: what is made here for the state must live as long as its id is known
    memo.setdefault(id(memo), []).append(state)
    made = {}
    for name, value in state.items():
        own = type(value)
        if own in _ATOMS:
            made[name] = value
        elif own in _TABLES and not value and id(value) not in memo and not _attributes(value, own):
            made[name] = memo[id(value)] = own()
        else:
            made[name] = _value(value, memo)
    new.__setstate__(made)
    return new


def _attributes(table: Any, kind: type) -> Any:
    """What was set on an ordered dict beside its items; a dict takes nothing."""
    return kind is OrderedDict and table.__dict__


def _value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS or kind in _SHARED:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    if kind in _TABLES and not _attributes(value, kind):
        new = memo[id(value)] = kind()
        if value:
            for key, item in value.items():
                new[_value(key, memo)] = _value(item, memo)
        return new
    if isinstance(value, nn.Module):
        return _module(value, memo)
    if kind is tuple and all(type(item) in _ATOMS for item in value):
        return value
    if kind is set and not value:
        new = memo[id(value)] = set()
        return new
    return copy.deepcopy(value, memo)


def _is_plain(kind: type) -> bool:
    """Whether instances are made empty and given a copy of their state."""
    return (
        kind.__new__ is object.__new__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind not in copyreg.dispatch_table
        and not any(
            hasattr(kind, n) for n in ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
        )
        and not copyreg._slotnames(kind)  # type: ignore[attr-defined]
    )
