"""One forward written down op by op, and run again in parts while the weights change.

Recorded below the network's Python, so that modules and programs are the same and what a forward leaves in its
attributes is never mixed up between calls. What it decided by value stays decided. Between two
parts, what is still needed is put aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.heal.examples import Call
from surgeon.heal.spool import Spool, Stored
from surgeon.heal.watch import moves_only
from surgeon.trace.inputs import Inputs
from surgeon.trace.tensors import tensors_of

_OWN = -1  # the memory of what the network holds itself, and of what cannot be put aside
_VIEW = torch.ops.aten.as_strided.default


class _Value(NamedTuple):
    """In place of a tensor among an op's arguments."""

    number: int


@dataclass(frozen=True)
class _Step:
    func: Any
    spec: Any
    given: list[Any]  # leaves of (args, kwargs)
    made: list[int]
    writes: bool

    @property
    def values(self) -> Iterator[int]:
        """What it takes."""
        return (x.number for x in self.given if isinstance(x, _Value))


@dataclass(eq=False)
class Tape:
    """`steps` in order; `at`: where the op of a number is, ops that only move elements not counted."""

    steps: list[_Step] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # of each value
    inputs: list[int] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)  # the last step that takes a value

    def first(self, op: int) -> int:
        """The value that op `op` gave first."""
        return self.steps[self.at[op]].made[0]

    def keep(self, op: int, until: int) -> None:
        """What op `op` gave first is still there when op `until` runs."""
        value = self.first(op)
        self.last[value] = max(self.last.get(value, -1), self.at[until])


class Recorder(TorchDispatchMode):
    """Writes down one forward of `model` on `inputs`."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.tape = Tape()
        self._values: Any = WeakIdKeyDictionary()
        self._memory: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in (t for m in model.modules() for t in tensors_of(m)):
            self._of(tensor, _OWN)
        self.tape.inputs = [self._value(t) for t in inputs.tensors]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs or {}))
        given = [self._given(x) if isinstance(x, Tensor) else x for x in leaves]
        out = func(*args, **(kwargs or {}))
        made = [self._value(t) for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        if not moves_only(str(func)):
            self.tape.at.append(len(self.tape.steps))
        self._write(_Step(func, spec, given, made, func._schema.is_mutable))
        return out

    def _write(self, step: _Step) -> None:
        self.tape.last.update(dict.fromkeys(step.values, len(self.tape.steps)))
        self.tape.steps.append(step)

    def _given(self, tensor: Tensor) -> Any:
        if tensor in self._values:
            return _Value(self._values[tensor])
        memory = self._of(tensor, _OWN)
        if memory == _OWN:
            return tensor
        known = [(n, t) for t, n in self._values.items() if self._of(t, _OWN) == memory]
        base = next((n for n, t in known if t.dtype == tensor.dtype), None)
        return tensor if base is None else _Value(self._seen(tensor, base))

    def _seen(self, tensor: Tensor, base: int) -> int:
        """A view that no op made (`x.data`), as one of a value whose memory it shares."""
        leaves = [_Value(base), [*tensor.shape], [*tensor.stride()], tensor.storage_offset()]
        given, spec = pytree.tree_flatten((tuple(leaves), {}))
        self._write(_Step(_VIEW, spec, given, [self._value(tensor)], False))
        return self._values[tensor]

    def _value(self, tensor: Tensor) -> int:
        if tensor not in self._values:
            self._values[tensor] = len(self.tape.memory)
            self.tape.memory.append(self._of(tensor, len(self._memory)))
        return self._values[tensor]

    def _of(self, tensor: Tensor, new: int) -> int:
        """The number of a tensor's memory; the weak reference keeps its address from being used again."""
        if not _plain(tensor):
            return _OWN
        storage = tensor.untyped_storage()
        if storage._cdata not in self._memory:
            self._memory[storage._cdata] = StorageWeakRef(storage), new
        return self._memory[storage._cdata][1]


class _Lies(NamedTuple):
    """How a tensor lies in its memory."""

    memory: int
    dtype: torch.dtype
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]


class Here(NamedTuple):
    """Before an op runs: the op, its arguments, and the values that are there."""

    tape: Tape
    number: int
    values: dict[int, Tensor]

    @property
    def op(self) -> Any:
        """What runs."""
        return self.tape.steps[self.tape.at[self.number]].func

    @property
    def args(self) -> tuple[Any, ...]:
        """What it is given."""
        return _filled(self.tape.steps[self.tape.at[self.number]], self.values)[0]

    def gave(self, number: int) -> Tensor:
        """What an earlier op gave first; the tape was told to keep it."""
        return self.values[self.tape.first(number)]


class Replay:
    """A tape that runs on from where it stopped, with the weights of now."""

    def __init__(self, tape: Tape, call: Call, spool: Spool) -> None:
        self.tape, self._call, self._spool = tape, call, spool
        self._next = 0
        self._values: dict[int, Tensor | _Lies] = {}
        self._memory: dict[int, Stored] = {}
        self._written: set[int] = set()

    def passed(self, op: int) -> bool:
        """Whether op `op` ran already."""
        return self.tape.at[op] < self._next

    @contextmanager
    def until(self, op: int) -> Iterator[Here]:
        """Go on until op `op` would run."""
        values, end = self._taken_up(), self.tape.at[op]
        for index in range(self._next, end):
            self._run(index, values)
        self._next = end
        yield Here(self.tape, op, values)
        self._put_aside(values)

    def _run(self, index: int, values: dict[int, Tensor]) -> None:
        step, last = self.tape.steps[index], self.tape.last
        args, kwargs = _filled(step, values)
        out = step.func(*args, **kwargs)
        made = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        values.update(zip(step.made, made, strict=True))
        for value in {*step.made, *step.values}:
            if last.get(value, -1) <= index:
                values.pop(value, None)
        if step.writes:
            self._written.update(self.tape.memory[v] for v in step.values)

    def _taken_up(self) -> dict[int, Tensor]:
        if not self._next:
            return dict(zip(self.tape.inputs, self._call.inputs.tensors, strict=True))
        memory = {n: s.get() for n, s in self._memory.items()}
        return {
            n: x if isinstance(x, Tensor) else _view(memory[x.memory], x)
            for n, x in self._values.items()
        }

    def _put_aside(self, values: dict[int, Tensor]) -> None:
        """What was read and not written is there already."""
        self._values = {n: self._lies(n, t) for n, t in values.items()}
        needed = {x.memory: values[n] for n, x in self._values.items() if isinstance(x, _Lies)}
        for memory in [m for m in self._memory if m not in needed or m in self._written]:
            self._memory.pop(memory).drop()
        for memory, tensor in needed.items():
            if memory not in self._memory:
                self._memory[memory] = self._spool.put(_bytes(tensor))
        self._written.clear()

    def _lies(self, value: int, tensor: Tensor) -> Tensor | _Lies:
        memory = self.tape.memory[value]
        if memory == _OWN:
            return tensor
        offset, stride = int(tensor.storage_offset()), tensor.stride()
        return _Lies(memory, tensor.dtype, offset, tensor.shape, stride)


def _filled(step: _Step, values: dict[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An op's arguments."""
    leaves = [values[x.number] if isinstance(x, _Value) else x for x in step.given]
    return pytree.tree_unflatten(leaves, step.spec)


def _plain(tensor: Tensor) -> bool:
    """Whether its numbers lie in memory as its strides say, and nothing more."""
    return tensor.layout == torch.strided and not (tensor.is_conj() or tensor.is_neg())


def _bytes(tensor: Tensor) -> Tensor:
    """All of a tensor's memory."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)


def _view(memory: Tensor, lies: _Lies) -> Tensor:
    empty = torch.empty(0, dtype=lies.dtype, device=memory.device)
    return empty.set_(memory.untyped_storage(), lies.offset, lies.shape, lies.stride)
