"""Functions that a model keeps (`self.head = lambda t: t @ self.embed.weight.t()`), made anew in its copies.

Python copies a function by reference: in a copy of the model it would go on with the original's modules and weights.
What a function holds is in the cells that it closes over, in its defaults, and in globals that it names; a partial holds
arguments, and a method its object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from itertools import chain
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from surgeon.trace.modules import first_paths, modules_of
from surgeon.trace.tensors import tensors_of

_TORCH = frozenset(nn.Module().__dict__)  # of every module; of hooks in there `hooks.py` sees to it

_NUMBERS = frozenset({int, str, float, bool})


def rebind(twin: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let the functions among the attributes of a copy, and in lists and dicts there, hold the copy's own modules and
    tensors; those that hold none stay shared. memo: the deep copy's, from the id of what was copied to its copy."""
    rebinding = Rebinding(memo)
    for module in modules_of(twin):
        for name, value in _kept(module):
            new = rebinding.of(value)
            if new is not value:
                module.__dict__[name] = new


def unbound(model: nn.Module) -> tuple[str, ...]:
    """What to say of functions that hold the model's own modules and tensors where no copy can be given others: within an
    object of some class, which deepcopy does not look for in a function, nor for functions in it."""
    modules = modules_of(model)
    own = {id(x) for m in modules for x in (m, *tensors_of(m))}
    kept = {id(value) for m in modules for value in m.__dict__.values()}
    found = [
        (f"{path}.{name}".strip("."), kind)
        for module, path in first_paths(model).items()
        for name, value in module.__dict__.items()
        if name not in _TORCH
        for kind in _keepers(value, own, kept)
    ]
    return tuple(
        f"{name} has a function that holds parts of the model in a {kind}: in a copy, and in the slim model, it goes on "
        "with the original's; make it a method of the module"
        for name, kind in dict.fromkeys(found)
    )


def held_by_functions(model: nn.Module) -> set[int]:
    """The ids of all that is held by functions among the attributes, and by lists and dicts."""
    kept = (value for module in modules_of(model) for _, value in _kept(module))
    return {id(part) for value in kept for part in _within(value)}


class Rebinding:
    """One copy's functions: what is one object in the original is one in the copy."""

    def __init__(self, memo: Mapping[int, Any]) -> None:
        self.memo = memo
        self._made: dict[int, tuple[Any, Any]] = {}  # the first keeps the id its own

    def of(self, value: Any) -> Any:
        """What stands in the copy where the original holds this: itself, where nothing of the model is in it."""
        value = self.memo.get(id(value), value)
        if id(value) in self._made:
            return self._made[id(value)][1]
        if type(value) not in _ANEW or not any(id(part) in self.memo for part in _within(value)):
            return value
        return _ANEW[type(value)](value, self)

    def made(self, old: Any, new: Any) -> Any:
        """Note what was made before what is in it, which may hold it."""
        self._made[id(old)] = old, new
        return new


def _function(old: FunctionType, rebinding: Rebinding) -> FunctionType:
    cells = tuple(_cell(cell, rebinding) for cell in old.__closure__ or ())
    named = {name: value for name, value in _named(old).items() if id(value) in rebinding.memo}
    # a table of its own, where the model is a global: the function's file goes on with the original
    table = {**old.__globals__} if named else old.__globals__
    new = rebinding.made(old, FunctionType(old.__code__, table, old.__name__, None, cells))
    for cell, before in zip(cells, old.__closure__ or (), strict=True):
        if cell is not before:
            cell.cell_contents = rebinding.of(before.cell_contents)
    table.update({name: rebinding.of(value) for name, value in named.items()})
    new.__defaults__ = rebinding.of(old.__defaults__)
    new.__kwdefaults__ = rebinding.of(old.__kwdefaults__)
    new.__qualname__ = old.__qualname__
    new.__dict__.update({name: rebinding.of(value) for name, value in vars(old).items()})
    return new


def _cell(old: CellType, rebinding: Rebinding) -> CellType:
    """An empty cell for what will be another object; functions that share a variable go on sharing it."""
    if id(old) in rebinding._made:
        return rebinding._made[id(old)][1]
    moves = any(id(part) in rebinding.memo for part in _within(old))
    return rebinding.made(old, CellType()) if moves else old


def _list(old: list[Any], rebinding: Rebinding) -> list[Any]:
    new = rebinding.made(old, [])
    new += map(rebinding.of, old)
    return new


def _dict(old: dict[Any, Any], rebinding: Rebinding) -> dict[Any, Any]:
    new = rebinding.made(old, type(old)())
    new.update((key, rebinding.of(value)) for key, value in old.items())
    return new


def _tuple(old: tuple[Any, ...], rebinding: Rebinding) -> tuple[Any, ...]:
    return rebinding.made(old, tuple(map(rebinding.of, old)))


def _partial(old: partial[Any], rebinding: Rebinding) -> partial[Any]:
    new = partial(rebinding.of(old.func), *rebinding.of(old.args), **rebinding.of(old.keywords))
    new.__dict__.update({name: rebinding.of(value) for name, value in vars(old).items()})
    return rebinding.made(old, new)


def _method(old: MethodType, rebinding: Rebinding) -> MethodType:
    new = MethodType(rebinding.of(old.__func__), rebinding.of(old.__self__))
    return rebinding.made(old, new)


def _builtin(old: BuiltinFunctionType, rebinding: Rebinding) -> Any:
    return rebinding.made(old, getattr(rebinding.of(old.__self__), old.__name__))


def _of_function(function: FunctionType) -> Iterator[Any]:
    yield from function.__closure__ or ()
    yield from (function.__defaults__, function.__kwdefaults__)
    yield from vars(function).values()
    yield from _named(function).values()


def _of_cell(cell: CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # a variable that is not set yet
        return


_HELD: dict[type, Callable[[Any], Iterable[Any]]] = {
    FunctionType: _of_function,
    CellType: _of_cell,
    MethodType: lambda method: (method.__func__, method.__self__),
    BuiltinFunctionType: lambda function: (function.__self__,),
    partial: lambda p: (p.func, p.args, p.keywords, *vars(p).values()),
    list: iter,
    tuple: iter,
    dict: dict.values,
    OrderedDict: OrderedDict.values,
}
_ANEW: dict[type, Callable[[Any, Rebinding], Any]] = {
    FunctionType: _function,
    MethodType: _method,
    BuiltinFunctionType: _builtin,
    partial: _partial,
    list: _list,
    tuple: _tuple,
    dict: _dict,
    OrderedDict: _dict,
}


def _kept(module: nn.Module) -> list[tuple[str, Any]]:
    """The attributes that are functions, or may hold some."""
    return [
        (name, value)
        for name, value in module.__dict__.items()
        if name not in _TORCH and type(value) in _HELD and not _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    """A kernel size, padding: told quickly, as most attributes are such."""
    return type(value) is tuple and all(type(item) in _NUMBERS for item in value)


def _within(value: Any) -> Iterator[Any]:
    """All that a value holds, itself first, through functions and containers; each once."""
    seen, todo = set[int](), [value]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        todo += _HELD.get(type(part), _nothing)(part)


def _keepers(value: Any, own: Set[int], kept: Set[int]) -> Iterator[str]:
    """The classes of objects within a value that hold what is `own` and still do in a copy. kept: attributes, which are
    copied wherever they are found."""
    known = (nn.Module, Tensor, type, ModuleType, *_HELD)
    shared = {id(x) for f in _functions(value) for x in _within(f)} - kept
    for part in _within(value):
        if isinstance(part, known) or not hasattr(part, "__dict__"):
            continue
        held = vars(part).values()
        # of an object that is copied, functions alone are not
        roots = held if id(part) in shared else chain(*map(_functions, held))
        if any(id(x) in own for root in roots for x in _within(root)):
            yield type(part).__name__


def _functions(value: Any) -> Iterator[FunctionType]:
    return (part for part in _within(value) if isinstance(part, FunctionType))


def _nothing(_value: Any) -> tuple[()]:
    return ()


def _named(function: FunctionType) -> dict[str, Any]:
    """Modules and tensors among the globals that it names, in functions inside it too."""
    found: dict[str, Any] = {}
    codes: list[Any] = [function.__code__]
    while codes:
        code = codes.pop()
        for name in code.co_names:
            value = function.__globals__.get(name)
            if isinstance(value, (nn.Module, Tensor)):
                found[name] = value
        codes += (const for const in code.co_consts if isinstance(const, CodeType))
    return found
