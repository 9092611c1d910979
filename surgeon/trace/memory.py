"""What the ops of one run gave, so that a run that begins alike need not compute it again.

Of a forward that is run once more with another number read at one line, all ops before that line give
what they gave. What somebody still held at that line is kept; of the rest only shapes are, since nothing
behind the line can have read it. Ops on light tensors alone, integers and small ones, cost nothing and are
run again: they are written in place, and their numbers are read at every step. A run that turns out to be
another before that line (the network keeps something of its first one) goes on by itself from there, where all
that is still held is known, and is the one that is remembered from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.graph import Reading

_SMALL = 1 << 14  # elements: their numbers may be read without an op (tolist)


class Forgotten(Exception):
    """The run does not begin as the remembered one did, and needs numbers that are not known."""


At = tuple[int, int]  # op, result
Held = dict[At, Tensor]


@dataclass(frozen=True)
class _Blank:
    """A result that is one of the operands, or whose numbers nobody needs."""

    operand: int | None
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    device: torch.device | None = None

    def tensor(self, operands: list[Tensor]) -> Tensor:
        if self.operand is not None:
            return operands[self.operand]
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


@dataclass
class _Result:
    """One result of an op: a number, or a tensor while somebody holds it, and its likeness after."""

    number: Any = None
    blank: _Blank | None = None
    alive: Any = None
    light: Tensor | None = None  # as it was before anything was written to it


@dataclass(frozen=True)
class _Outside:
    """An operand that the run did not make. While it lives, as the state does, no other one is the same."""

    ref: Any
    shape: tuple[int, ...]

    def is_(self, tensor: Tensor) -> bool:
        own = self.ref()
        return tensor is own or (own is None and tuple(tensor.shape) == self.shape)


@dataclass(frozen=True)
class _Op:
    """One op of the run: its arguments (a tensor as the result that it is), and what it gave; no results: run again."""

    func: Any
    names: tuple[str, ...]  # of its keywords
    given: list[Any]
    several: bool
    results: list[_Result]


@dataclass(frozen=True)
class _Mark:
    """What was held when a line was first reached: its tensors."""

    ops: int
    held: Held


class Memory(TorchDispatchMode):
    """Remembers a run, then gives it again up to a mark. Entered before the modes that watch the run."""

    def __init__(self) -> None:
        super().__init__()
        self._ops: list[_Op] = []
        self._made: Any = WeakIdKeyDictionary()  # tensor -> which result it is
        self._marks: dict[Reading | None, _Mark] = {}
        self._own: set[int] = set()  # where what the run computed lies
        self._holders: dict[int, list[tuple[Held, At]]] = {}  # by storage: the marks that hold it
        self._usable = True
        self._until: _Mark | None = None
        self._next = 0
        self._blank: list[StorageWeakRef] = []  # given without their numbers

    def mark(self, place: Reading) -> None:
        """A run that deviates here may begin with what is known up to here."""
        if self._until is not None or not self._usable:
            return
        held = {
            (k, j): tensor
            for k, op in enumerate(self._ops)
            for j, result in enumerate(op.results)
            if result.alive and (tensor := result.alive()) is not None
        }
        for at, tensor in held.items():
            self._holders.setdefault(_storage(tensor), []).append((held, at))
        self._marks[place] = _Mark(len(self._ops), held)

    def stop(self) -> None:
        """No marks from here on: what follows cannot be given again."""
        self._usable = False

    @classmethod
    def none(cls) -> Memory:
        """For a run that is like no other."""
        memory = cls()
        memory.stop()
        return memory

    @contextmanager
    def begun(self, place: Reading | None) -> Iterator[None]:
        """A run that begins as the remembered one did, as far as the reading `place`; the
        first is remembered, and one that is another before. Raises Forgotten where that cannot go on."""
        self._until, self._next, self._blank = self._marks.get(place), 0, []
        if self._ops and self._until is None:
            self.stop()
        try:
            with self:
                yield
        finally:
            self._until = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if self._until is not None and self._next < self._until.ops:
            known = self._ops[self._next]
            if (func, (*kwargs,)) == (known.func, known.names) and self._same(known.given, leaves):
                return self._given(known, args, kwargs)
            self._depart()
        written = list(_written(func, args, kwargs)) if func._schema.is_mutable else []
        self._spare(written)
        if self._until is None and self._usable:
            return self._remembered(func, (args, kwargs, leaves), written)
        return func(*args, **kwargs)

    def _same(self, known: list[Any], given: list[Any]) -> bool:
        """Whether these are the arguments that the op had."""
        return len(known) == len(given) and all(
            self._is(a, b) if isinstance(b, Tensor) else type(a) is type(b) and a == b
            for a, b in zip(known, given, strict=True)
        )

    def _is(self, known: Any, tensor: Tensor) -> bool:
        at = self._made.get(tensor)
        if isinstance(known, _Outside):
            return at is None and known.is_(tensor)
        return at is not None and at == known

    def _depart(self) -> None:
        """The run is another from here on: it is remembered, where all that is held has the numbers of this point."""
        assert self._until is not None
        later = self._ops[self._next : self._until.ops]
        written = any(op.results and op.func._schema.is_mutable for op in later)
        if written or not all(storage.expired() for storage in self._blank):
            raise Forgotten
        del self._ops[self._next :]
        self._marks = {place: m for place, m in self._marks.items() if m.ops <= self._next}
        self._until, self._usable = None, True

    def _spare(self, written: list[Tensor]) -> None:
        """What is held and is about to be written to is held as it was."""
        for tensor in written:
            for held, at in self._holders.pop(_storage(tensor), ()):
                held[at] = held[at].clone()
                self._holders.setdefault(_storage(held[at]), []).append((held, at))

    def _remembered(
        self, func: Any, call: tuple[Any, Any, list[Any]], written: list[Tensor]
    ) -> Any:
        args, kwargs, leaves = call
        given = [self._named(x) if isinstance(x, Tensor) else x for x in leaves]
        operands = [x for x in leaves if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        several = isinstance(out, (tuple, list))
        outs = out if several else (out,)
        results = [x for x in outs if isinstance(x, Tensor)]
        again = bool(results) and all(map(_light, (*operands, *results)))
        if any(_storage(t) not in self._own or (_light(t) and not again) for t in written):
            self.stop()  # what the run has not made itself would be written to twice
        kept = [_result(x, operands) for x in outs]
        self._note(outs, len(self._ops))
        self._ops.append(_Op(func, (*kwargs,), given, several, [] if again else kept))
        return out

    def _named(self, tensor: Tensor) -> At | _Outside:
        at = self._made.get(tensor)
        return _Outside(weakref.ref(tensor), tuple(tensor.shape)) if at is None else at

    def _note(self, outs: Any, k: int) -> None:
        """These are the results of op k."""
        for j, out in enumerate(outs):
            if isinstance(out, Tensor):
                self._own.add(_storage(out))
                if out not in self._made:  # what is written in place stays what it was
                    self._made[out] = (k, j)

    def _given(self, known: _Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        k, self._next = self._next, self._next + 1
        if not known.results:
            out = known.func(*args, **kwargs)
            self._note(out if known.several else (out,), k)
            return out
        operands = _tensors(args, kwargs)
        outs = [self._again((k, j), result, operands) for j, result in enumerate(known.results)]
        self._note(outs, k)
        return tuple(outs) if known.several else outs[0]

    def _again(self, at: tuple[int, int], result: _Result, operands: list[Tensor]) -> Any:
        assert self._until is not None
        if result.blank is None:
            return result.number
        if result.light is not None:
            return result.light.clone()
        known = self._until.held.get(at)
        if known is not None:  # a fresh tensor: a view's result must not have been a result before
            tensor = torch.ops.aten.alias(known)
        else:
            tensor = result.blank.tensor(operands)
            if result.blank.operand is None:
                self._blank.append(StorageWeakRef(tensor.untyped_storage()))
        if result.alive is not None:
            result.alive = weakref.ref(tensor)
        return tensor


def _result(out: Any, operands: list[Tensor]) -> _Result:
    if not isinstance(out, Tensor):
        return _Result(number=out)
    for k, operand in enumerate(operands):
        if out is operand:
            return _Result(blank=_Blank(k))
    blank = _Blank(None, tuple(out.shape), out.stride(), out.dtype, out.device)
    if _light(out):
        return _Result(blank=blank, light=out.clone())
    return _Result(blank=blank, alive=weakref.ref(out))


def _light(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or tensor.numel() <= _SMALL


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for k, arg in enumerate(func._schema.arguments):
        if arg.alias_info is not None and arg.alias_info.is_write:
            given = args[k] if k < len(args) else kwargs.get(arg.name)
            yield from (t for t in tree_leaves(given) if isinstance(t, Tensor))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
