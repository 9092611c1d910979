"""Attributes of the user's own modules that hold sizes: found by the ops that read them, set to follow.

No guess by value alone: an attribute is a candidate where an op that its module (or a child) ran was
given its old value as a size that the cut changes. The repair is kept only if the whole forward then
fits, op by op.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgeon.cut.sizes import Call, Sizes, resize
from surgeon.graph import Node
from surgeon.trace.called import CalledAs


@dataclass(frozen=True)
class Change:
    """An attribute and its two values."""

    module: nn.Module
    name: str
    old: Any
    new: Any

    def set(self, value: Any) -> None:
        """Give the attribute a value."""
        self.module.__dict__[self.name] = value

    @property
    def kind(self) -> tuple[type, str]:
        """Attributes of one name and class are repaired together."""
        return type(self.module), self.name


def repair(slim: nn.Module, sizes: Sizes, fits: Callable[[], bool]) -> bool:
    """Set size attributes of `slim` to what the cut makes of them; whether its forward fits then.

    All candidates together, else each kind alone; what the forward also fits without is put back, so
    that a number that happens to be equal (epochs=64) is left alone.
    """
    kinds: dict[tuple[type, str], list[Change]] = defaultdict(list)
    for change in _candidates(slim, sizes):
        kinds[change.kind].append(change)
    everything = [c for changes in kinds.values() for c in changes]
    for trial in (everything, *kinds.values()) if everything else ():
        for change in trial:
            change.set(change.new)
        if fits():
            _put_back_idle(trial, fits)
            return True
        for change in trial:
            change.set(change.old)
    return False


def _put_back_idle(trial: list[Change], fits: Callable[[], bool]) -> None:
    by_kind: dict[tuple[type, str], list[Change]] = defaultdict(list)
    for change in trial:
        by_kind[change.kind].append(change)
    for changes in by_kind.values() if len(by_kind) > 1 else ():
        for change in changes:
            change.set(change.old)
        if not fits():
            for change in changes:
                change.set(change.new)


def _candidates(slim: nn.Module, sizes: Sizes) -> Iterator[Change]:
    wanted: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for node in sizes.coupling.graph.nodes:
        for old, new in _changes(node, sizes):
            for path in _owners(node.module):
                wanted[path][old].add(new)
    for path, module in slim.named_modules():
        if path in wanted and not type(module).__module__.startswith("torch.nn"):
            changes = {old: new for old, (new, *more) in wanted[path].items() if not more}
            yield from _of(module, changes)


def _changes(node: Node, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """(old, new) of every size that the node was given and the cut changes."""
    outputs = tuple(v for v in node.outputs if v is not None)
    if isinstance(
        node.target, CalledAs
    ):  # its sizes are its own: those of the tensors that it is given
        for value in (*node.inputs, *outputs):
            pairs = zip(value.shape, sizes.shape(value), strict=True)
            yield from ((a, b) for a, b in pairs if a != b)
        return
    call = Call(node.op, node.args, node.kwargs, next(iter(node.inputs), None), outputs, (node,))
    new = resize(call, sizes)
    if new.op != call.op:
        return
    for a, b in zip(call.args, new.args, strict=False):
        many = isinstance(a, (list, tuple)) and isinstance(b, (list, tuple))
        for old, now in zip(a, b, strict=True) if many else ((a, b),):  # type: ignore[arg-type]
            if type(old) is int and type(now) is int and old != now:
                yield old, now


def _owners(path: str) -> Iterator[str]:
    """The module and all that hold it, innermost first: 'a.b', 'a', ''."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _of(module: nn.Module, changes: dict[int, int]) -> Iterator[Change]:
    for name, value in module.__dict__.items():
        new: Any = None
        if type(value) is int:
            new = changes.get(value)
        elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
            replaced = type(value)(changes.get(v, v) for v in value)
            new = replaced if replaced != value else None
        if new is not None and not name.startswith("_"):
            yield Change(module, name, value, new)
