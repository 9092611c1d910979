"""Tensors that a function keeps for the whole process (functools.lru_cache): forgotten, so that a recording sees them made, and
so that no recording leaves tensors without numbers to the user's own calls.

A table of frequencies that was made by an earlier call comes out of nowhere in the next: nobody sees that its width is one that
the cut changes. What a cache holds can be made again at any time.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_CACHE = functools._lru_cache_wrapper
_HOLDERS = (tuple, list, dict)  # what a function may return tensors in
_DEEP = 3  # of them, one in another
_RUNS = 32  # each forgets one cache at least


class Recalled(BaseException):
    """A run met a tensor that a function had kept, and has forgotten now. No Exception: a forward that catches these goes on."""


class Kept:
    """The tensors that functions keep, looked for among all objects there are when one run asks for the first time."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Any, Any]] | None = None  # the first keeps the id its own

    def refuse(self, tensor: Tensor) -> None:
        """Where a function keeps this one it forgets all that it keeps, and Recalled is raised."""
        if self._found is None:
            self._found = {id(x): (x, c) for c in _caches() for x in _within(c) if _is_tensor(x)}
        if id(tensor) in self._found:
            self._found[id(tensor)][1].cache_clear()
            raise Recalled


def forget(tensors: list[Tensor]) -> bool:
    """Make the functions that keep any of these forget all that they keep; whether there are any."""
    caches = _caches_of(tensors) if tensors else []
    for cache in caches:
        cache.cache_clear()
    return bool(caches)


@contextmanager
def nothing_kept() -> Iterator[None]:
    """No function keeps a tensor without numbers that it made inside, as torch.export has them made."""
    try:
        yield
    finally:
        for cache in _caches():
            if any(map(_is_unreal, _within(cache))):
                cache.cache_clear()


def _caches() -> list[Any]:
    return list(filter(_is_cache, gc.get_objects()))


def _within(cache: Any) -> Iterator[Any]:
    """What a cache holds, and what is in that."""
    held = gc.get_referents(cache)
    for _ in range(_DEEP):
        yield from held
        held = gc.get_referents(*(x for x in held if type(x) in _HOLDERS))


def _is_cache(found: Any) -> bool:
    """By its type: some objects answer isinstance with code of their own."""
    return type(found) is _CACHE


def _is_tensor(found: Any) -> bool:
    return issubclass(type(found), Tensor)


def _is_unreal(found: Any) -> bool:
    kind = type(found)
    return issubclass(kind, FakeTensor) or (issubclass(kind, Tensor) and found.is_meta)


def _caches_of(tensors: list[Tensor]) -> list[Any]:
    """The caches that hold one of them, by itself or within what a function returned."""
    found, holders = list[Any](), list[Any](tensors)
    for _ in range(_DEEP):
        near = gc.get_referrers(*holders)
        found += filter(_is_cache, near)
        holders = [x for x in near if type(x) in _HOLDERS and x is not holders]
        if found or not holders:
            break
    return found


def unrecalled(record: Callable[_P, _T]) -> Callable[_P, _T]:
    """A recording that is begun again where a run met what a function had kept."""

    @functools.wraps(record)
    def again(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for _ in range(_RUNS):
            try:
                return record(*args, **kwargs)
            except Recalled:
                continue
        raise RuntimeError(
            "functions of the network keep more tensors from call to call than can be forgotten"
        )

    return again
