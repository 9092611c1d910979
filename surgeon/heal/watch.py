"""A run watched op by op: its layers in order, and how their results go on to a sum.

A layer's result that meets only steps along its channels (batch norm, a scale a channel, a view of its
rows) before it is added to another value is part of a sum. What the cut did to that other value can then be
made up for by the layer. Which ops add and which scale, the rules say; by how much, the ops themselves: they are run on ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.heal.layers import Layer, layer_of
from surgeon.rules import lookup
from surgeon.trace.tensors import named_state, output_tensors, tensors_among


@dataclass(frozen=True, eq=False)
class Track:
    """Where a layer's result is: `layer` is its op's number; `scale` [channels] what multiplied it since,
    `mean` the name of the running mean that was taken off it."""

    layer: int
    conv: bool
    scale: Tensor | None = None
    mean: str | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """Where a value comes from: the op of this number, and what moved its result since."""

    number: int
    moves: tuple[Callable[[Tensor], Tensor], ...] = ()

    def of(self, value: Tensor) -> Tensor:
        """The value, of what the op gave."""
        for move in self.moves:
            value = move(value)
        return value


@dataclass(frozen=True, eq=False)
class Sum:
    """Where the other value of a sum was made (before the layer ran), the way of the layer's result there, and how much
    of the result's own one of the other value is (-1 where it is taken off)."""

    made: Made
    track: Track
    by: float = 1.0


Meet = Callable[[int, Layer], None]
Use = tuple[str, int]  # a weight, and how often it was used before


class Watch(TorchDispatchMode):
    """Tells `before` of every layer before it runs and `after` of its result; `normed` of the batch norm
    that takes it, `summed` of its sum, with the other value.

    A layer is known by the number of its op: ops that only move elements have none. `uses`: the same
    layer in another run, or in a cut copy, is the one of the same use.
    """

    def __init__(
        self,
        model: nn.Module,
        before: Meet | None = None,
        after: Callable[[int, Layer, Tensor], None] | None = None,
        summed: Callable[[Sum, Tensor], None] | None = None,
        normed: Callable[[Track], None] | None = None,
    ) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.summed, self.normed = summed, normed
        self.uses: dict[int, Use] = {}
        self._count, self._used = 0, Counter[str]()
        self._names = by_storage(model)
        self._tracks: Any = WeakIdKeyDictionary()
        self._makers: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        op = _Op(func, args, kwargs or {})
        if moves_only(str(func)):
            return self._moved(op)
        number, self._count = self._count, self._count + 1
        layer = layer_of(func, args, self._names)
        if layer is not None:
            self.uses[number] = layer.name, self._used[layer.name]
            self._used[layer.name] += 1
            if self.before:
                self.before(number, layer)
        track = self._next(op)
        out = op.run()
        if layer is not None:
            if self.after:
                self.after(number, layer, out)
            track = Track(number, bool(layer.conv))
        self._note(number, out, track)
        return out

    def _moved(self, op: _Op) -> Any:
        """A layer's rows stay its rows in a view; a value that was moved alone is known by its moves."""
        x, out = op.first, op.run()
        if not isinstance(out, Tensor):
            return out
        track = self._tracks.get(x) if x is not None else None
        made = self._makers.get(x) if x is not None else None
        self._tracks.pop(out, None)
        self._makers.pop(out, None)
        if x is not None and track is not None and not track.conv and _same_rows(x, out):
            self._tracks[out] = track
        if made is not None and len(op.tensors) == 1:
            again = _Op(op.func, (None, *op.args[1:]), op.kwargs).on
            self._makers[out] = Made(made.number, (*made.moves, again))
        return out

    def _note(self, number: int, out: Any, track: Track | None) -> None:
        made = list(tensors_among(out if isinstance(out, (tuple, list)) else (out,)))
        for tensor in made:
            self._makers[tensor] = Made(number)
            self._tracks.pop(tensor, None)
        if made and track is not None:
            self._tracks[made[0]] = track

    def _next(self, op: _Op) -> Track | None:
        """Where the result of a layer goes on to with this op; a sum is told and ends the way."""
        sense, tensors = op.sense, op.tensors
        if sense == "sum" and len(tensors) == 2 and tensors[0].shape == tensors[1].shape:
            self._sum(op, *tensors)
            return None
        x = op.first
        track = self._tracks.get(x) if x is not None else None
        others = [t for t in tensors if t is not x]
        if track is None or x is None or len(tensors) - len(others) > 1:
            return None
        if not all(self._own(t) for t in others) or op.random:
            return None
        if "running_mean" in op.given:
            return self._normed(op, track, x)
        if sense != "scale":
            return None
        ones = _ones(x, track.conv)
        scale = output_tensors(op.on(ones))[0]
        if scale.shape != ones.shape:
            return None
        scale = scale.flatten() if track.scale is None else track.scale * scale.flatten()
        return Track(track.layer, track.conv, scale, track.mean)

    def _own(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._names

    def _normed(self, op: _Op, track: Track, x: Tensor) -> Track | None:
        """Batch norm by the statistics of the state."""
        mean, bias = op.given["running_mean"], op.given.get("bias")
        if mean is None or op.given.get("training") or track.scale is not None:
            return None
        if not track.conv and x.dim() != 2:
            return None
        name = self._names[mean.untyped_storage().data_ptr()]
        still = {id(t): torch.zeros_like(t) for t in (mean, bias) if t is not None}
        scale = output_tensors(op.on(_ones(x, track.conv), still))[0].flatten()
        found = Track(track.layer, track.conv, scale, name)
        if self.normed:
            self.normed(found)
        return found

    def _sum(self, op: _Op, a: Tensor, b: Tensor) -> None:
        """The later layer of a sum makes up for the other value."""
        tracks = self._tracks.get(a), self._tracks.get(b)
        if self.summed is None or tracks == (None, None):
            return
        shares = op.shares()
        ways = zip(tracks, (b, a), shares, reversed(shares), strict=True)
        known = [
            (t, other, theirs / own) for t, other, own, theirs in ways if t is not None and own
        ]
        if not known:
            return
        track, other, by = max(known, key=lambda k: k[0].layer)
        if (made := self._makers.get(other)) is not None and made.number < track.layer:
            self.summed(Sum(made, track, by), other)


@dataclass(frozen=True, eq=False)
class _Op:
    """One call of an op."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    @property
    def sense(self) -> str:
        rule = lookup(str(self.func))
        return rule.sense if rule is not None else ""

    @property
    def random(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.func.tags

    @property
    def tensors(self) -> list[Tensor]:
        return list(tensors_among((*self.args, *self.kwargs.values())))

    @property
    def first(self) -> Tensor | None:
        return self.args[0] if self.args and isinstance(self.args[0], Tensor) else None

    @property
    def given(self) -> dict[str, Any]:
        """Arguments by their names in the op's schema."""
        names = [a.name for a in self.func._schema.arguments]
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def on(self, x: Tensor, others: Mapping[int, Tensor] | None = None) -> Any:
        """The op on another first tensor, and on `others` in place of the tensors of these ids."""
        rest = [(others or {}).get(id(a), a) for a in self.args[1:]]
        return self.func(x, *rest, **self.kwargs)

    def shares(self) -> tuple[float, float]:
        """Of a sum of two tensors, what one of each adds to the result."""

        def at(*numbers: float) -> float:
            left = iter(torch.tensor(n, dtype=torch.float64) for n in numbers)
            args = [next(left) if isinstance(a, Tensor) else a for a in self.args]
            kwargs = {k: next(left) if isinstance(a, Tensor) else a for k, a in self.kwargs.items()}
            return float(self.func(*args, **kwargs))

        return at(1, 0) - at(0, 0), at(0, 1) - at(0, 0)


def _ones(x: Tensor, conv: bool) -> Tensor:
    """A one for each channel of a layer's result."""
    shape = [1] * x.dim()
    channels = 1 if conv else -1
    shape[channels] = x.shape[channels]
    return x.new_ones(shape)


def _same_rows(x: Tensor, out: Tensor) -> bool:
    """Whether a view has the same numbers in the same order, the last dimension being what it was."""
    if not (x.dim() and out.dim() and x.shape[-1] == out.shape[-1] and x.numel() == out.numel()):
        return False
    return x.is_contiguous() and out.is_contiguous() and x.data_ptr() == out.data_ptr()


def by_storage(model: nn.Module) -> dict[int, str]:
    """Where the state lies -> its name."""
    return {t.untyped_storage().data_ptr(): n for n, t in named_state(model).items()}


def moves_only(op: str) -> bool:
    """Whether an op only moves elements: a cut network may do more or less of that."""
    rule = lookup(op)
    return rule is not None and rule.move is not None and rule.family != "factory"
