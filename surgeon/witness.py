"""Results inside a network that a file gives beside its outputs: there is something to compare where a detector
finds nothing, and where two boxes are so close that rounding decides between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.choices import decides
from surgeon.measure.runtime import as_array, named_tensors

_BYTES = (
    256_000_000  # of results, those nearest to the outputs: what is wrong before them shows in them
)


class Point(NamedTuple):
    """The result of the `nth` call of the layer at `path`."""

    path: str
    nth: int


class Witness(nn.Module):
    """`model` as a function that gives a tuple of tensors: its outputs, then its results at `points`.

    Its outputs may be anything that `named_tensors` goes into. `met` is which points the last call came to.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point] = ()) -> None:
        super().__init__()
        self.model = model
        self.points = points
        self.met: tuple[Point, ...] = ()
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        seen: dict[Point, Tensor] = {}
        wanted = set(self.points)

        def keep(point: Point, out: Tensor) -> None:
            if point in wanted:
                seen[point] = out

        with _watched(self.model, keep):
            outputs = [tensor for _, tensor in named_tensors(self.model(*args, **kwargs))]
        self.met = tuple(p for p in self.points if p in seen)
        return (*outputs, *(seen[point] for point in self.met))


def choose(model: nn.Module, run: Callable[[], Any]) -> list[Point]:
    """The results of layers that `run` comes to, of the last 256 MB of them, in order.

    Not those that the next layer takes as they are (an exporter may make one of the two) or that are written over.
    """
    kept: dict[Point, tuple[Tensor, int]] = {}
    held = 0

    def see(point: Point, out: Tensor) -> None:
        nonlocal held
        kept[point] = (out, out._version)
        held += out.nbytes
        while held > _BYTES:
            first = next(iter(kept))
            held -= kept.pop(first)[0].nbytes

    def taken(tensor: Tensor) -> None:
        nonlocal held
        for point in [p for p, (out, _) in kept.items() if out is tensor]:
            held -= kept.pop(point)[0].nbytes

    with _watched(model, see, taken):
        outputs = [tensor for _, tensor in named_tensors(run())]
    return [
        point
        for point, (out, version) in kept.items()
        if out._version == version and not any(out is given for given in outputs)
    ]


class Met(NamedTuple):
    """A result as the file has it, and as the model has it that went on from the file's results before."""

    point: Point
    given: np.ndarray
    own: np.ndarray


def follow(
    model: nn.Module,
    run: Callable[[], Any],
    given: Mapping[Point, np.ndarray],
    equal: Callable[[np.ndarray, np.ndarray], bool],
) -> tuple[Any, list[Met], list[Point]]:
    """What `run` gives when the model goes on from each of the `given` results in place of its own, and its own
    beside them. And the points that tell nothing.

    Once something was chosen by value (the best boxes, those above a threshold) rounding may have chosen others: what is
    neither equal there, nor equal in another order of its rows, tells nothing. What is made of it tells again.
    """
    met: list[Met] = []
    left: list[Point] = []
    decided = _Decided()

    def see(point: Point, out: Tensor) -> Tensor | None:
        if point not in given:
            return None
        theirs, own = given[point], as_array(out).copy()
        pairs = [(theirs, own), _in_order(theirs, own)] if decided else [(theirs, own)]
        told = next((pair for pair in pairs if not decided or equal(*pair)), None)
        if told is not None:
            met.append(Met(point, *told))
        else:
            left.append(point)
        return torch.from_numpy(theirs).to(out) if own.shape == theirs.shape else None

    with _watched(model, see), decided:
        return run(), met, left


def _in_order(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both, in the order of one sum of each that hardly any two rows share."""
    if a.shape != b.shape or a.ndim < 2:
        return a, b
    rows = [x.reshape(len(x), -1) for x in (a, b)]
    weights = np.random.default_rng(0).standard_normal(rows[0].shape[1])
    first, second = (x[np.argsort(x @ weights, kind="stable")] for x in rows)
    return first, second


class _Decided(TorchDispatchMode):
    """True as soon as an op chose some of its rows, or their order, by value."""

    met = False

    def __bool__(self) -> bool:
        return self.met

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.met = self.met or decides(func, args)
        return out


@contextmanager
def _watched(
    model: nn.Module,
    see: Callable[[Point, Tensor], Tensor | None],
    taken: Callable[[Tensor], None] | None = None,
) -> Iterator[None]:
    """`see` is told the result of each call of a layer, and may give another; `taken`, what layers are called with."""
    calls: Counter[str] = Counter()

    def note(path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _args: Any, out: Any) -> Any:
            point = Point(path, calls[path])
            calls[path] += 1
            real = isinstance(out, Tensor) and out.is_floating_point() and out.numel()
            return see(point, out) if real else None

        return hook

    def look(_module: nn.Module, args: Any) -> None:
        for arg in args:
            if taken is not None and isinstance(arg, Tensor):
                taken(arg)

    leaves = [(path, m) for path, m in model.named_modules() if not any(m.children())]
    hooks = [m.register_forward_hook(note(path)) for path, m in leaves]
    hooks += [m.register_forward_pre_hook(look) for _, m in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
