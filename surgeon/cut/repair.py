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

from surgeon.cut.reads import Kind, reads
from surgeon.cut.sizes import Call, Sizes, resize
from surgeon.graph import Node
from surgeon.trace.called import CalledAs


@dataclass(frozen=True)
class Change:
    """An attribute and its two values."""

    module: nn.Module
    name: str
    old: Any  # None where the class holds it and the module itself nothing
    new: Any

    def set(self, value: Any) -> None:
        """Give the attribute a value."""
        if value is None:
            self.module.__dict__.pop(self.name, None)
        else:
            self.module.__dict__[self.name] = value

    @property
    def kind(self) -> Kind:
        """Attributes of one name and class are repaired together."""
        return type(self.module), self.name


def repair(slim: nn.Module, sizes: Sizes, fits: Callable[[], bool]) -> bool:
    """Set size attributes of `slim` to what the cut makes of them; whether its forward fits then.

    First those that ops were given as arguments, then also those that are extents of the tensors the
    module works on (`self.dim - self.part`), then each kind alone, and those of each class. What the forward also fits without
    is put back, so that a number that happens to be equal (epochs=64) is left alone.
    """
    for trial in _trials(slim, sizes):
        for change in trial:
            change.set(change.new)
        with reads(change.kind for change in trial) as read:
            fit = fits()
        if fit:
            _put_back_idle(trial, fits, read)
            return True
        for change in trial:
            change.set(change.old)
    return False


def _trials(slim: nn.Module, sizes: Sizes) -> Iterator[list[Change]]:
    """Sets of changes worth trying, each but once."""
    given = [_wanted(sizes, _changes, own) for own in (True, False)]
    extents = [_wanted(sizes, _extents, own) for own in (True, False)]
    asked = list(_candidates(slim, given))
    every = list(_candidates(slim, [*given, *extents]))
    seen: list[list[Change]] = [[]]
    for trial in (asked, every, *_all_but_one(asked), *_by_kind(asked), *_by_class(asked)):
        if trial not in seen:
            seen.append(trial)
            yield trial


def _all_but_one(changes: list[Change]) -> Iterator[list[Change]]:
    """Each kind left out: its number may be that of something else (four heads, four rotary channels)."""
    kinds = _by_kind(changes)
    for left_out in kinds if len(kinds) <= _KINDS else ():
        yield [change for kind in kinds if kind is not left_out for change in kind]


_KINDS = 12  # of attributes; each costs a forward
_Wanted = dict[str, dict[int, set[int]]]  # module path -> old size -> what the cut makes of it


def _put_back_idle(trial: list[Change], fits: Callable[[], bool], read: set[Kind]) -> None:
    """What the forward does not read, all at once; then each other kind without which it fits."""
    unread = [change for change in trial if change.kind not in read]
    rest = [change for change in trial if change.kind in read]
    if unread and not _fits_without(unread, fits):
        rest = trial  # it is read in a way that nobody sees
    kinds = _by_kind(rest)
    for changes in kinds if len(kinds) > 1 else ():
        _fits_without(changes, fits)


def _fits_without(changes: list[Change], fits: Callable[[], bool]) -> bool:
    """Whether the forward fits without these, which are put back then."""
    for change in changes:
        change.set(change.old)
    fit = fits()
    for change in changes if not fit else ():
        change.set(change.new)
    return fit


def _by_kind(changes: list[Change]) -> list[list[Change]]:
    kinds: dict[Kind, list[Change]] = defaultdict(list)
    for change in changes:
        kinds[change.kind].append(change)
    return list(kinds.values())


def _by_class(changes: list[Change]) -> list[list[Change]]:
    classes: dict[type, list[Change]] = defaultdict(list)
    for change in changes:
        classes[type(change.module)].append(change)
    return list(classes.values())


def _wanted(
    sizes: Sizes, pairs: Callable[[Node, Sizes], Iterator[tuple[int, int]]], own: bool
) -> _Wanted:
    """What the ops of each module say: those that its own forward runs, or those of all that it holds."""
    wanted: _Wanted = defaultdict(lambda: defaultdict(set))
    for node in sizes.coupling.graph.nodes:
        for old, new in pairs(node, sizes):
            for path in (node.module,) if own else node.owners:
                wanted[path][old].add(new)
    return wanted


def _candidates(slim: nn.Module, said: list[_Wanted]) -> Iterator[Change]:
    """Attributes to set. said: the most telling first; who says two things of a size says nothing of it."""
    for path, module in slim.named_modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        found: dict[int, set[int]] = {}
        for wanted in reversed(said):
            found |= wanted.get(path, {})
        yield from _of(module, {old: new for old, (new, *more) in found.items() if not more})


def _extents(node: Node, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """(old, new) of every extent of the node's tensors that the cut changes."""
    for value in (*node.inputs, *(v for v in node.outputs if v is not None)):
        new = sizes.shape(value)
        yield from ((a, b) for a, b in zip(value.shape, new, strict=True) if a != b)


def _changes(node: Node, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """(old, new) of every size that the node was given and the cut changes."""
    if isinstance(node.target, CalledAs):  # its sizes are its own: those of its tensors
        yield from _extents(node, sizes)
        return
    outputs = tuple(v for v in node.outputs if v is not None)
    call = Call(node.op, node.args, node.kwargs, next(iter(node.inputs), None), outputs, (node,))
    new = resize(call, sizes)
    if "split" in call.op and type(call.arg(1)) is int:
        yield from _run_length(call, new)
    elif new.op == call.op:
        pairs = zip(call.args, new.args, strict=False)
        yield from (p for a, b in pairs for p in _pairs(a, b) if p[0] != p[1])


def _pairs(a: Any, b: Any) -> Iterator[tuple[int, int]]:
    """The integers of two arguments of one shape, side by side."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        yield from (p for x, y in zip(a, b, strict=True) for p in _pairs(x, y))
    elif type(a) is int and type(b) is int:
        yield a, b


def _run_length(call: Call, new: Call) -> Iterator[tuple[int, int]]:
    """The length of equal runs, where those of the cut tensor are equal too."""
    lengths = new.args[1]
    if isinstance(lengths, list) and len(set(lengths[:-1])) == 1 and lengths[-1] <= lengths[0]:
        yield call.args[1], lengths[0]


def _of(module: nn.Module, changes: dict[int, int]) -> Iterator[Change]:
    own, layers = module.__dict__, _of_layer(type(module))
    for name, value in (_of_class(type(module)) | own).items():
        if name in layers:
            continue
        new: Any = None
        if type(value) is int:
            new = changes.get(value)
        elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
            replaced = type(value)(changes.get(v, v) for v in value)
            new = replaced if replaced != value else None
        if new is not None and not name.startswith("_"):
            yield Change(module, name, own.get(name), new)


def _of_layer(kind: type) -> frozenset[str]:
    """What a layer of torch.nn says of itself, which was set with its tensors: also where users build upon it."""
    layers = [k for k in kind.__mro__ if k.__module__.startswith("torch.nn")]
    return frozenset(name for k in layers for name in getattr(k, "__constants__", ()))


def _of_class(kind: type) -> dict[str, Any]:
    """What the user's classes hold for all of their modules: `heads = 4` in a class body."""
    users = [k for k in kind.__mro__ if not k.__module__.startswith(("torch.nn", "builtins"))]
    return {name: value for k in reversed(users) for name, value in vars(k).items()}
