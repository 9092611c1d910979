"""The caller's hooks on surgeon's copies: they run there, and what they keep or print stays there.

A hook may change what a module returns, so a recording must run it. It may also count, print or keep
activations in the caller's lists; those must not see surgeon's forwards. A deep copy of a module shares
its hook functions, so each gets a closure and globals of its own.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

from torch import nn

from surgeon.trace.modules import modules_of
from surgeon.trace.rebound import Rebinding
from surgeon.trace.tensors import tensors_of

_SHARED = (nn.Module, type, ModuleType, BuiltinFunctionType, str, bytes)  # never copied for a hook


def isolate(twin: nn.Module, memo: dict[int, Any]) -> None:
    """Give the hooks of a copy state of their own. memo: the deep copy's, from original to copy; what is the copy's by now, as
    the object of a hook that is a method, stays that."""
    modules = modules_of(twin)
    tables = [t for m in modules for t in (m._forward_hooks, m._forward_pre_hooks) if t]
    if tables:
        memo = {**memo, **{id(x): x for m in modules for x in (m, *tensors_of(m))}}
    for hooks in tables:
        for key, hook in hooks.items():
            hooks[key] = _Apart(_apart(hook, memo))


def belong(twin: nn.Module, memo: Mapping[int, Any]) -> None:
    """Where a hook of a copy holds something that was copied (`self`), it means the copy; whatever else it holds
    it shares with the original's. memo: the deep copy's, from original to copy."""
    rebinding = Rebinding(memo)
    for module in modules_of(twin):
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in hooks.items():
                hooks[key] = rebinding.of(hook)


class _Apart:
    """A hook whose prints go nowhere."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with redirect_stdout(io.StringIO()):
            return self.hook(*args, **kwargs)


def _apart(value: Any, memo: dict[int, Any]) -> Any:
    """What a hook reaches, copied where it could be written to; what cannot be copied is shared."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, FunctionType):
        return _function(value, memo)
    if isinstance(value, _SHARED) or value is None:
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001  a lock, a file, a tensor with a gradient: whatever refuses
        return _shallow(value)


def _shallow(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception:  # noqa: BLE001
        return value


def _function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The same code over copies of the variables that it closes over and of the globals it names."""
    cells = tuple(CellType() for _ in function.__closure__ or ())
    new = FunctionType(
        function.__code__,
        {**function.__globals__},
        function.__name__,
        function.__defaults__,
        cells,
    )
    new.__kwdefaults__ = function.__kwdefaults__
    memo[id(function)] = new
    memo[id(memo[id(function)])] = function  # keeps both alive, so that ids stay theirs
    for cell, old in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _apart(old.cell_contents, memo)
        except ValueError:  # a variable that is not set yet
            continue
    for name in _named_globals(function.__code__.co_names, function.__globals__):
        new.__globals__[name] = _apart(function.__globals__[name], memo)
    return new


def _named_globals(names: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    """Containers and numbers; classes, modules and functions of a file are not a hook's state."""
    return [n for n in names if isinstance(table.get(n), (list, dict, set, int, float))]
