"""One run of a model's copy, every op written down.

The copy is a shell (the model's own structure, meta tensors or clones in place of its weights) that runs under a
dispatch mode, so the caller's model is not touched. On meta no weight is read; integer tensors stay real there: they
are indices.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from traceback import clear_frames
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.graph import Graph, Node, Value
from surgeon.trace.adapters import fixed_ranks
from surgeon.trace.called import Called, send_calls
from surgeon.trace.inputs import Inputs
from surgeon.trace.memoised import Kept, forget
from surgeon.trace.meta import ValuesLost, run_on_meta
from surgeon.trace.mode import forward_mode
from surgeon.trace.modules import first_paths, modules_of
from surgeon.trace.place import place_of
from surgeon.trace.plain import PLAIN
from surgeon.trace.shell import shell, to_meta, valued
from surgeon.trace.tensors import (
    loose_of,
    named_loose,
    named_outputs,
    named_state,
    named_tensors,
    output_tensors,
    parameter_names,
    saved_buffers,
    tensors_among,
)

_SMALL = 1 << 22  # elements of an integer constant worth keeping
_WRITTEN = 64  # numbers written in the code of a forward that are compared
_LITERAL = frozenset({torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default})
_DRAWS = frozenset({torch.ops.aten.rand, torch.ops.aten.randn})
_SHORT = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "b1",
}  # fmt: skip


def prepared(
    model: nn.Module, *, on_meta: bool, original: Graph | None = None
) -> tuple[nn.Module, Recorder]:
    """A copy of the model to be run, in eval mode, and a recorder that knows its state by name. original: of which this is a cut
    copy, whose few numbers were many there, and had no values."""
    if on_meta:
        twin = shell(model, to_meta, valued, unvalued_in(model, original)).eval()
    else:
        twin = shell(model, torch.clone).eval()
    recorder = Recorder(on_meta)
    state, loose = named_state(twin), named_loose(twin)
    for name, tensor in (*state.items(), *loose.items()):
        recorder.name_state(name, tensor)
    recorder.graph.loose = frozenset(loose)
    recorder.hold(t for module in modules_of(twin) for t in loose_of(module))
    recorder.graph.parameters = parameter_names(twin)
    recorder.graph.buffers = saved_buffers(twin)
    recorder.graph.fixed = fixed_ranks(twin)
    recorder.graph.on_meta = on_meta
    recorder.graph.unvalued = unvalued_of({**state, **loose})
    return twin, recorder


def unvalued_of(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """The names of what has no values in a copy."""
    return frozenset(name for name, tensor in tensors.items() if tensor.is_meta)


def unvalued_in(model: nn.Module, original: Graph | None) -> frozenset[int]:
    """The tensors of a cut copy, by id, that had no values in the recording of its original."""
    if original is None:
        return frozenset()
    return frozenset(id(t) for n, t in named_tensors(model).items() if n in original.unvalued)


def run_recorded(twin: nn.Module, recorder: Recorder, inputs: Inputs) -> tuple[Value, ...]:
    """One forward, written to the recorder's graph; the values of its outputs."""
    recorder.begin(inputs)
    send_calls(twin, recorder.call)
    # what is on meta has nothing to give
    real = not recorder.on_meta or any(not t.is_meta for t in inputs.tensors)
    leaving = _Leaving(recorder) if real else nullcontext()
    with (
        recorder.forgetting(twin),
        drawn_alike(),
        forward_mode(twin),
        module_paths(twin, recorder),
        leaving,
        recorder,
    ):
        output = inputs.run(twin)
    return recorder.returned(output)


@contextmanager
def drawn_alike() -> Iterator[None]:
    """What is drawn inside is the same each time, and the caller's random numbers are as they were."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextmanager
def module_paths(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Keep the recorder's `path` at the innermost module whose forward is running."""
    names = first_paths(model)

    def enter(module: nn.Module, _args: Any) -> None:
        recorder.path.append(names.get(module, recorder.path[-1]))

    def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
        recorder.path.pop()

    before, after = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield
    finally:
        before.remove()
        after.remove()


_LEAVES = {getattr(Tensor, name): name for name in ("numpy", "__array__", "__dlpack__", "data_ptr")}


class _Leaving(TorchFunctionMode):
    """Notes the tensors that leave torch: nobody sees what becomes of them."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _LEAVES:
            self.recorder.leave(_LEAVES[func], args[0])
        elif func is Tensor.tolist:
            self.recorder.listed(args[0])
        return func(*args, **(kwargs or {}))


class Recorder(TorchDispatchMode):
    """Writes every dispatched op into `graph`; mixes meta tensors with real integer ones."""

    def __init__(self, on_meta: bool) -> None:
        super().__init__()
        self.graph = Graph()
        self.on_meta = on_meta
        self.path = [""]
        self._known: Any = WeakIdKeyDictionary()  # tensor -> its value, while the tensor lives
        self._held: Any = WeakIdKeyDictionary()  # by the model, and no state of it
        self._from_inputs: Any = WeakIdKeyDictionary()  # whose numbers another input would change
        self._inside = False  # a module that has a rule: its call is the op
        self._kept = Kept()
        self._made: Any = WeakIdKeyDictionary()  # of the code's numbers alone
        self.training = False  # of a forward in train mode: what it draws decides what runs
        self.look: Callable[[Node], None] | None = None  # is shown each node

    def begin(self, inputs: Any) -> None:
        """Mark the tensors of the inputs: what is computed from them is no constant."""
        flat = [t for t in tree_leaves(inputs) if isinstance(t, Tensor)]
        for tensor in flat:
            self._from_inputs[tensor] = True
        self.graph.inputs = tuple(self.value(t) for t in flat)
        self.graph.given.update(self.graph.inputs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return self._run(func, args, kwargs)
        if func in PLAIN:
            with self:
                return PLAIN[func](*args, **kwargs)
        given = list(tensors_among((*args, *kwargs.values())))
        if self.on_meta and any(self._lost(t) for t in given):
            raise ValuesLost
        if func not in _LITERAL:
            self._refuse_recalled(given)
        noted = tuple(
            [self._noted(a) for a in args]
        )  # before the op may change their shape in place
        noted_kwargs = {k: self._noted(v) for k, v in kwargs.items()}
        if func in _LITERAL:
            noted += _numbers(args[0])
        out = self._run(func, args, kwargs)
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        self._follow(func, given, outputs)
        self._add(
            Node(
                len(self.graph.nodes),
                str(func),
                func,
                noted,
                noted_kwargs,
                tuple([self.value(o) if isinstance(o, Tensor) else None for o in outputs]),
                self.path[-1],
                place_of(sys._getframe(1)),
            )
        )
        return out

    def _add(self, node: Node) -> None:
        self.graph.nodes.append(node)
        if self.look is not None:
            self.look(node)

    def leave(self, how: str, tensor: Tensor) -> None:
        """A tensor handed to numpy or to other code, as a node without a rule and without outputs."""
        if self._inside:
            return
        op, source = f"Tensor.{how}", place_of(sys._getframe(1))
        lost = Value(len(self.graph.values), (), short(tensor.dtype))
        self.graph.values.append(lost)
        noted = (self.value(tensor),)
        self._add(Node(len(self.graph.nodes), op, None, noted, {}, (lost,), self.path[-1], source))

    def listed(self, tensor: Tensor) -> None:
        """A note on numbers that Python gets as a list, where inputs decide them."""
        note = f"numbers are listed at {place_of(sys._getframe(1))}: what they decide is followed on one side alone"
        if tensor in self._from_inputs:
            self.graph.listed = True
            self.graph.notes += (note,) if note not in self.graph.notes else ()

    def call(self, called: Called) -> Any:
        """One call of a module that has a rule, as one node."""
        operands = called.operands()
        noted = tuple(self.value(t) for t in operands)
        before, self._inside = self._inside, True
        try:
            out = called.run(operands)
        finally:
            self._inside = before
        if before:  # within another module that has a rule
            return out
        results = output_tensors(out)
        if any(t in self._from_inputs for t in operands):
            for t in results:
                self._from_inputs[t] = True
        values = tuple(self.value(t) for t in results)
        source = place_of(sys._getframe(1))
        self._add(
            Node(
                len(self.graph.nodes),
                called.what.rule.op,
                called.what,
                noted,
                {},
                values,
                called.what.path,
                source,
            )
        )
        return out

    def _lost(self, tensor: Tensor) -> bool:
        """Whether these are indices whose numbers were never seen: torch made them of a list in the code, on the
        device of what they index, before any mode is asked."""
        if tensor.is_floating_point() or not tensor.is_meta:
            return False
        return tensor not in self._known and tensor not in self._held

    @contextmanager
    def forgetting(self, twin: nn.Module) -> Iterator[None]:
        """A run after which no function of the process keeps a meta tensor that it made inside, for a call of the user's to find."""
        try:
            yield
        except BaseException as error:
            clear_frames(error.__traceback__)  # which hold what the forward was at
            raise
        finally:
            made = [t for t in self._made if t.is_meta]
            own = {id(t) for m in modules_of(twin) for t in loose_of(m)} if made else set[int]()
            forget([t for t in made if id(t) not in own])

    def _refuse_recalled(self, given: list[Tensor]) -> None:
        """Raise Recalled where a tensor that no op made is one that some function keeps from call to call."""
        for tensor in given:
            if tensor not in self._known and tensor not in self._held:
                self._kept.refuse(tensor)

    def _follow(self, func: Any, given: list[Tensor], outputs: Any) -> None:
        """What came from the inputs; and integers written in place are other values from then on."""
        results = [o for o in outputs if isinstance(o, Tensor)]
        if self.on_meta and all(t in self._made for t in given):
            for t in results:
                self._made[t] = True
        if any(t in self._from_inputs for t in given):
            for t in results:
                self._from_inputs[t] = True
        if func._schema.is_mutable:
            for t in results:
                if not t.is_meta and not t.is_floating_point():
                    self._known.pop(t, None)

    def value(self, tensor: Tensor) -> Value:
        """The value of a tensor, new where it was not seen before."""
        known = self._known.get(tensor)
        if known is None or known.shape != tensor.shape:  # transpose_ makes another value of it
            known = Value(
                len(self.graph.values),
                tuple(tensor.shape),
                short(tensor.dtype),
                stride=tensor.stride(),
            )
            if self._is_constant(tensor):
                known.constant = tensor.clone()
            self.graph.values.append(known)
            self._known[tensor] = known
        return known

    def _is_constant(self, tensor: Tensor) -> bool:
        known = not (tensor.is_meta or tensor.is_floating_point() or tensor.is_complex())
        return known and tensor.numel() < _SMALL and tensor not in self._from_inputs

    def returned(self, output: Any) -> tuple[Value, ...]:
        """The values of what a forward returned; where they are several, the graph says where each was."""
        found = [(name, self.value(t)) for name, t in named_outputs(output)]
        for name, value in found if len(found) > 1 else ():
            self.graph.places.setdefault(value, name)
        return tuple(value for _, value in found)

    def name_state(self, name: str, tensor: Tensor) -> None:
        """Mark a tensor as the model's own state."""
        value = self.value(tensor)
        if name not in value.state:
            value.state = (*value.state, name)
        self.graph.state[name] = value

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """What a model holds beside its state: of a model on the meta device nobody has these numbers."""
        for tensor in tensors:
            self._held[tensor] = True

    def _noted(self, arg: Any) -> Any:
        if isinstance(arg, Tensor):
            return self.value(arg)
        if type(arg) in (list, tuple):
            return type(arg)([self._noted(a) for a in arg])
        return arg

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.on_meta or (self.training and _draws_one(func, args)):
            return func(*args, **kwargs)
        return run_on_meta(func, args, kwargs)


def _draws_one(func: Any, args: tuple[Any, ...]) -> bool:
    """A single random number, for Python to look at: whether a layer is dropped this time."""
    return func.overloadpacket in _DRAWS and not list(args[0])


def _numbers(tensor: Tensor) -> tuple[Any, ...]:
    """What `torch.tensor(...)` was given in the code: it may be a size, which a cut changes."""
    seen = not tensor.is_meta and tensor.numel() <= _WRITTEN
    return (tuple(tensor.flatten().tolist()),) if seen else ()


@lru_cache
def short(dtype: torch.dtype) -> str:
    """'f32' for torch.float32."""
    name = str(dtype).removeprefix("torch.")
    return _SHORT.get(name, name)
