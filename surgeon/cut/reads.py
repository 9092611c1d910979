"""Which attributes of modules a forward reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

Kind = tuple[type, str]  # a class of modules, and an attribute of theirs
_NOTHING = object()
_LOCK = RLock()


class _Watched:
    """Stands in the class in front of an attribute of its instances, and tells when it is read."""

    def __init__(self, kind: Kind, read: set[Kind]) -> None:
        self.kind, self.read = kind, read
        self.default = getattr(*kind, _NOTHING)  # what the class holds for all of them

    def __get__(self, module: Any, owner: type) -> Any:
        if module is None:
            return self.default
        self.read.add(self.kind)
        found = module.__dict__.get(self.kind[1], self.default)
        if found is _NOTHING:
            raise AttributeError(self.kind[1])
        return found

    def __set__(self, module: Any, value: Any) -> None:
        module.__dict__[self.kind[1]] = value

    def __delete__(self, module: Any) -> None:
        del module.__dict__[self.kind[1]]


@contextmanager
def reads(kinds: Iterable[Kind]) -> Iterator[set[Kind]]:
    """Inside, those of these plain attributes that are read are added to what this gives. One at a time, as
    classes are everybody's."""
    read: set[Kind] = set()
    with _LOCK, ExitStack() as after:
        for owner, name in dict.fromkeys(kinds):
            own = vars(owner).get(name, _NOTHING)
            watched = _Watched((owner, name), read)
            setattr(owner, name, watched)
            after.callback(_put_back, owner, name, own)
        yield read


def _put_back(owner: type, name: str, own: Any) -> None:
    if own is _NOTHING:
        delattr(owner, name)
    else:
        setattr(owner, name, own)
