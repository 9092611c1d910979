"""Names of the attributes that a forward may set: caches, and what one run hands to the next. Read in the code, as one run
takes one way through it: a table of positions is made anew only where more of them come than ever before."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dis import get_instructions
from functools import lru_cache
from types import CodeType
from typing import Any

_SETTERS = frozenset({"setattr", "__setattr__"})


def assigned(kinds: Iterable[type]) -> frozenset[str]:
    """Names that the forwards of these classes set, of whatever object, in all methods that they may call."""
    return frozenset().union(*map(_assigned, kinds))


@lru_cache
def _assigned(kind: type) -> frozenset[str]:
    found, seen, todo = set[str](), set[str](), ["forward"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for code in _codes(kind, name):
            found.update(_sets(code))
            todo += code.co_names
    return frozenset(found)


def _codes(kind: type, name: str) -> Iterator[CodeType]:
    """The code of a method or a property, also where a class overrides it and calls the one below; with functions inside."""
    for owner in kind.__mro__:
        member = vars(owner).get(name)
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        todo: list[Any] = (
            [] if member is None else [getattr(inspect.unwrap(member), "__code__", None)]
        )
        while todo:
            code = todo.pop()
            if isinstance(code, CodeType):
                yield code
                todo += code.co_consts


def _sets(code: CodeType) -> Iterator[str]:
    yield from (str(i.argval) for i in get_instructions(code) if i.opname == "STORE_ATTR")
    if not _SETTERS.isdisjoint(code.co_names):
        yield from (text for text in code.co_consts if isinstance(text, str))
