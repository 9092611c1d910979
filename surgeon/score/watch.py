"""Real runs of the original, with its tensors seen at points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.errors import BadInput
from surgeon.graph import Graph
from surgeon.score.points import Names, Point, anchors, is_anchor, made_of
from surgeon.trace.called import Called, send_calls
from surgeon.trace.inputs import Inputs
from surgeon.trace.mode import forward_mode
from surgeon.trace.plain import PLAIN
from surgeon.trace.record import forward_failed
from surgeon.trace.shell import shell
from surgeon.trace.tensors import named_tensors, output_tensors, tensors_among

See = Callable[[Point, Tensor], None]  # the point, and its tensor as [..., extent], channels last


class Watched:
    """A copy of a model that tells what is at the points when it runs; the caller's is not touched."""

    def __init__(self, model: nn.Module, graph: Graph, points: Iterable[Point]) -> None:
        self.twin = shell(model, torch.clone).eval()
        self.state = named_tensors(self.twin)
        self._anchors = {key: node.index for key, node in anchors(graph).items()}
        self._at: dict[tuple[int, bool], list[tuple[int, Point]]] = {}
        for point in points:
            for node, taken, place in point.spots:
                self._at.setdefault((node, taken), []).append((place, point))

    def run(self, inputs: Inputs, see: See) -> Any:
        """One forward without gradients; what it gives. BadInput where it fails."""
        mode = _Mode(self, see)
        send_calls(self.twin, mode.call)
        given = to_device(inputs, self.state)
        try:
            with forward_mode(self.twin), mode:
                return given.run(self.twin)
        except BadInput:
            raise
        except Exception as error:
            raise forward_failed(error, inputs) from error


class _Mode(TorchDispatchMode):
    """Knows state and what follows from it, and the ops that take it."""

    def __init__(self, watched: Watched, see: See) -> None:
        super().__init__()
        self._watched, self._see = watched, see
        self._names: Any = WeakIdKeyDictionary()
        for name, tensor in watched.state.items():
            if tensor not in self._names:
                self._names[tensor] = (name,)
        self._seen: dict[tuple[str, tuple[Names | None, ...]], int] = {}
        self._inside = False  # a module that has a rule: its call is the op

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        if func in PLAIN:
            with self:
                return PLAIN[func](*args, **kwargs)
        given = list(tensors_among((*args, *kwargs.values())))
        return self._op(str(func), given, lambda: func(*args, **kwargs))

    def call(self, called: Called) -> Any:
        """One call of a module that has a rule."""
        if self._inside:
            return called.run(called.operands())
        self._inside = True
        try:
            given = called.operands()
            return self._op(called.what.rule.op, given, lambda: called.run(given))
        finally:
            self._inside = False

    def _op(self, op: str, given: list[Tensor], run: Callable[[], Any]) -> Any:
        own = tuple([self._names.get(t) for t in given])
        node = self._node(op, own)
        self._tell(node, True, given)  # before it may write to them
        out = run()
        made = output_tensors(out)
        names = made_of(own)
        for tensor in made:
            if names:
                self._names.setdefault(tensor, names)
            else:
                self._names.pop(tensor, None)  # data were written into it
        self._tell(node, False, made)
        return out

    def _node(self, op: str, own: tuple[Names | None, ...]) -> int:
        if not is_anchor(own):
            return -1
        key = (op, own)
        before = self._seen.get(key, 0)
        self._seen[key] = before + 1
        return self._watched._anchors.get((*key, before), -1)

    def _tell(self, node: int, taken: bool, tensors: Sequence[Tensor]) -> None:
        for place, point in self._watched._at.get((node, taken), ()):
            tensor = tensors[place]
            if tensor.dim() > point.dim and tensor.shape[point.dim] == point.extent:
                tensor = tensor.abs() if tensor.is_complex() else tensor
                self._see(point, tensor.movedim(point.dim, -1))


def to_device(inputs: Inputs, state: Mapping[str, Tensor]) -> Inputs:
    """Copies of the inputs where the state is."""
    device = next((t.device for t in state.values()), torch.device("cpu"))
    with torch.inference_mode(False):
        return inputs.map(lambda t: t.to(device).clone())
