"""A run watched op by op: its layers in order, and how their results go on to a sum.

A layer's result that meets only steps along its channels (batch norm, a scale a channel, a view of its
rows) before it is added to another value is part of a sum. What the cut did to that other value can then be
made up for by the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.heal.layers import Layer, layer_of
from surgeon.rules import lookup
from surgeon.trace.tensors import named_state, tensors_among

_NORMS = {
    "aten.native_batch_norm.default": 7,
    "aten._native_batch_norm_legit_no_training.default": 6,
}
_ROWS = (
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.alias.default",
    "aten.clone.default",
)
_SUMS = ("aten.add.Tensor", "aten.add_.Tensor")
_SCALES = ("aten.mul.Tensor", "aten.mul_.Tensor")


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
    """Where the other value of a sum was made (before the layer ran), and the way of the layer's result there."""

    made: Made
    track: Track


Meet = Callable[[int, Layer], None]


class Watch(TorchDispatchMode):
    """Tells `before` of every layer before it runs and `after` of its result; `normed` of the batch norm
    that takes it, `summed` of its sum, with the other value.

    `ops` are the names of the ops that compute, in order; an op's number is its place there. Ops that only
    move elements have none.
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
        self.ops: list[str] = []
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
        op = str(func)
        if moves_only(op):
            return self._moved(func, args, kwargs or {})
        number = len(self.ops)
        self.ops.append(op)
        layer = layer_of(func, args, self._names)
        if layer is not None and self.before:
            self.before(number, layer)
        track = self._next(op, args)
        out = func(*args, **(kwargs or {}))
        if layer is not None:
            if self.after:
                self.after(number, layer, out)
            track = Track(number, bool(layer.conv))
        self._note(number, out, track)
        return out

    def _moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer's rows stay its rows in a view; a value that was moved alone is known by its moves."""
        track = self._next(str(func), args)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            return out
        self._tracks.pop(out, None)
        self._makers.pop(out, None)
        if track is not None:
            self._tracks[out] = track
        made = self._makers.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if made is not None and len(list(tensors_among(args))) == 1:
            self._makers[out] = Made(made.number, (*made.moves, _again(func, args[1:], kwargs)))
        return out

    def _note(self, number: int, out: Any, track: Track | None) -> None:
        made = list(tensors_among(out if isinstance(out, (tuple, list)) else (out,)))
        for tensor in made:
            self._makers[tensor] = Made(number)
            self._tracks.pop(tensor, None)
        if made and track is not None:
            self._tracks[made[0]] = track

    def _next(self, op: str, args: tuple[Any, ...]) -> Track | None:
        """Where the result of a layer goes on to with this op; a sum is told and ends the way."""
        if op in _SUMS and len(args) == 2 and all(isinstance(a, Tensor) for a in args):
            self._sum(*args)
            return None
        x = args[0] if args and isinstance(args[0], Tensor) else None
        track = self._tracks.get(x) if x is not None else None
        if track is None or x is None:
            return None
        if op in _NORMS:
            return self._normed(track, args, _NORMS[op])
        if op in _ROWS:
            rows = op.endswith("view.default")
            return track if not rows or (not track.conv and args[1][-1] == x.shape[-1]) else None
        return self._scaled(track, x, args[1]) if op in _SCALES else None

    def _normed(self, track: Track, args: tuple[Any, ...], eps: int) -> Track | None:
        _, weight, _, mean, var = args[:5]
        name = self._names.get(mean.untyped_storage().data_ptr()) if mean is not None else None
        if track.scale is not None or name is None:
            return None
        scale = (var + args[eps]).rsqrt()
        scale = scale if weight is None else scale * weight
        found = Track(track.layer, track.conv, scale, name)
        if self.normed:
            self.normed(found)
        return found

    def _scaled(self, track: Track, x: Tensor, by: Any) -> Track | None:
        """A parameter that holds a number a channel."""
        if not isinstance(by, Tensor) or by.untyped_storage().data_ptr() not in self._names:
            return None
        channels = x.shape[1] if track.conv else x.shape[-1]
        if by.numel() != channels or by.shape[-1 - (x.dim() - 2 if track.conv else 0)] != channels:
            return None
        scale = by.flatten() if track.scale is None else track.scale * by.flatten()
        return Track(track.layer, track.conv, scale, track.mean)

    def _sum(self, a: Tensor, b: Tensor) -> None:
        """The later layer of a sum makes up for the other value."""
        tracks = self._tracks.get(a), self._tracks.get(b)
        if self.summed is None or a.shape != b.shape:
            return
        known = [(t, o) for t, o in zip(tracks, (b, a), strict=True) if t is not None]
        if not known:
            return
        track, other = max(known, key=lambda k: k[0].layer)
        if (made := self._makers.get(other)) is not None and made.number < track.layer:
            self.summed(Sum(made, track), other)


def by_storage(model: nn.Module) -> dict[int, str]:
    """Where the state lies -> its name."""
    return {t.untyped_storage().data_ptr(): n for n, t in named_state(model).items()}


def _again(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    return lambda value: func(value, *args, **kwargs)


def moves_only(op: str) -> bool:
    """Whether an op only moves elements: a cut network may do more or less of that."""
    rule = lookup(op)
    return rule is not None and rule.move is not None and rule.family != "factory"
