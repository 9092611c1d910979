"""The original's forward with what was removed masked, op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from surgeon.choices import Choice, choice, counts
from surgeon.errors import CheckFailed
from surgeon.fused import FUSED, in_one
from surgeon.masking import Masks
from surgeon.plan import Keep
from surgeon.reached import Reached
from surgeon.trace.called import Called, send_calls
from surgeon.trace.decisions import Endless
from surgeon.trace.plain import PLAIN
from surgeon.trace.tensors import named_tensors


@dataclass
class Trail:
    """The results of a run, by name all of `ops`; `kept` are those from the start-th on, at least one and `room` bytes."""

    start: int
    room: int
    ops: list[str] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def add(self, op: str, result: Callable[[], Tensor]) -> None:
        """One more result."""
        self.ops.append(op)
        if len(self.ops) > self.start and (self.room > 0 or not self.kept):
            self.kept.append(result())
            self.room -= self.kept[-1].nbytes


class Masked(TorchDispatchMode):
    """Runs ops with masks; `trail` is given every output where the first difference is looked for. Raises Endless beyond
    `most` ops of the network."""

    def __init__(
        self, model: nn.Module, keep: Keep, trail: Trail | None = None, most: int | None = None
    ) -> None:
        super().__init__()
        self.ops, self.most = 0, most
        self.counted = False  # whether values said how many of something there are
        self.fused = False  # whether attention was asked for as one op
        self.masks = Masks()
        self.choices: list[Choice] = []
        self.reached = Reached(model, keep)
        self.trail = trail
        self._inside = False  # a module that has a rule: its call is the op
        send_calls(model, self._call)
        with torch.no_grad():
            for name, tensor in named_tensors(model).items():
                self.masks.begin(tensor, keep.get(name, {}))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self._inside:
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        if func in PLAIN:
            with self:
                return PLAIN[func](*args, **kwargs)
        if func is FUSED:
            self.fused = True
            if not in_one(self.masks.of, args, kwargs):
                raise CheckFailed(f"{func} cannot carry the masks that reach it")
        self._count()
        out = self.masks.run(func, args, kwargs)
        given = (*args, *kwargs.values())
        self.reached.op(tensors_in(given))
        self.counted = self.counted or counts(func, given)
        made = choice(func, given, out, lambda t: kept_of(self.masks, t))
        self.choices += [made] if made else []
        self._trailed(str(func), out)
        return out

    def _call(self, called: Called) -> Any:
        if self._inside:
            return called.run(called.operands())
        self._count()
        self.reached.op(tensors_in(called.operands()))
        self._inside = True
        try:
            out = self.masks.call(called)
            self._trailed(called.what.rule.op, out)
        finally:
            self._inside = False
        return out

    def _count(self) -> None:
        self.ops += 1
        if self.most is not None and self.ops > self.most:
            raise Endless("more ops than any other path has")

    def _trailed(self, op: str, out: Any) -> None:
        if self.trail is not None:
            for t in tensors_in(out):
                self.trail.add(op, partial(kept_of, self.masks, t))


def kept_of(masks: Masks, tensor: Tensor) -> Tensor:
    return tensor.masked_select(~masks.of(tensor)).clone()


def tensors_in(out: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(out) if isinstance(t, Tensor))
