"""Attributes of the user's own modules that hold sizes: found by the ops that read them, set to follow.

No guess by value alone: an attribute is a candidate where an op that its module (or a child) ran was
given its old value as a size that the cut changes. The repair is kept only if the whole forward then
fits, op by op.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from surgeon.axes import size_of
from surgeon.cut.fits import wanted, written_down
from surgeon.cut.reads import Kind, reads
from surgeon.cut.sizes import Call, Sizes
from surgeon.graph import Graph, Node
from surgeon.trace.called import CalledAs
from surgeon.trace.modules import first_paths


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


def repair(slim: nn.Module, sizes: Sizes, came: Callable[[], int | None]) -> bool:
    """Set size attributes of `slim` to what the cut makes of them; whether its forward fits then.

    came: None where the forward fits, else the node that it came to (-1: not known). First those that ops were given
    as arguments, then also those that are extents of the tensors the module works on (`self.dim - self.part`), then those of
    its children, which its forward may read (`self.block.dim`), then those of all that it holds, whose methods it may call
    (`self.rope.table()`), then without those that keep it from getting further, then each kind alone, and those of each class: such as the forward read before it ended. What it also fits without is put
    back, so that a number that happens to be equal (epochs=64) is left alone.
    """
    search = _Search(slim, sizes.coupling.graph, came)
    wider: list[list[Change]] = []
    for changes in _wider(slim, sizes):
        if search.fits(changes):
            return True
        wider.append(changes)
    if any(search.narrowed(changes) for changes in wider):
        return True
    read = set[Kind]().union(*(t.read for t in search.tried))
    return any(
        search.fits(trial)
        for trial in (*_by_kind(wider[0]), *_by_class(wider[0]))
        if any(change.kind in read for change in trial)
    )


def _wider(slim: nn.Module, sizes: Sizes) -> Iterator[list[Change]]:
    """What to set, less and less sure."""
    given = [_wanted(sizes, pairs, own) for pairs in (_changes, _factors) for own in (True, False)]
    yield list(_candidates(slim, given))
    extents = [_wanted(sizes, _extents, own) for own in (True, False)]
    every = [*given, *extents]
    yield list(_candidates(slim, every))
    yield list(_candidates(slim, every, _from_above(slim, given[0], deep=False)))
    yield list(_candidates(slim, every, _from_above(slim, extents[0], deep=True)))


@dataclass(frozen=True)
class _Tried:
    """Changes with which the forward did not fit, the node that it came to, and what it had read by then: nothing else can
    have kept it there."""

    changes: list[Change]
    reached: int
    read: set[Kind]


@dataclass
class _Search:
    """Sets of changes, each tried but once."""

    slim: nn.Module
    graph: Graph
    came: Callable[[], int | None]
    tried: list[_Tried] = field(default_factory=list)
    left: int = 10  # forwards for trials that leave something out

    def fits(self, trial: list[Change]) -> bool:
        """Whether the forward fits with these, which then stay set."""
        if not trial or any(trial == t.changes for t in self.tried):
            return False
        for change in trial:
            change.set(change.new)
        with reads(change.kind for change in trial) as read:
            came = self.came()
        if came is None:
            _put_back_idle(trial, lambda: self.came() is None, read)
            return True
        self.tried.append(_Tried(trial, came, read))
        for change in trial:
            change.set(change.old)
        return False

    def narrowed(self, changes: list[Change]) -> bool:
        """Some of what was tried left out, and left out for good where the forward then gets further: their number may be
        that of something else (four heads, four rotary channels; two heads, a shift by two)."""
        now = next((t for t in self.tried if t.changes == changes), None)
        before = None
        while now is not None and before is not now:
            before = now
            for some in self._suspects(now):
                rest = [change for change in now.changes if change not in some]
                if self.left == 0 or self.fits(rest):
                    return self.left > 0
                self.left -= 1
                last = self.tried[-1]
                if last.changes == rest and last.reached > now.reached:
                    now = last
                    break
        return False

    def _suspects(self, tried: _Tried) -> list[list[Change]]:
        """Changes of one number by one name that were read, those first that a module makes which runs the node where it ended."""
        kinds: dict[tuple[Kind, str], list[Change]] = defaultdict(list)
        for change in tried.changes:
            if change.kind in tried.read:
                kinds[change.kind, str(change.old)].append(change)
        owners = self.graph.nodes[tried.reached].owners if tried.reached >= 0 else ()
        here = {id(self.slim.get_submodule(path)) for path in owners}
        return sorted(kinds.values(), key=lambda some: all(id(c.module) not in here for c in some))


_TORCHS = frozenset(vars(nn.Module()))  # what any module has: its tables, hooks and mode
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


def _from_above(slim: nn.Module, wanted: _Wanted, deep: bool) -> _Wanted:
    """What the ops say that the holder of each module runs by itself. deep: or any that holds it, the nearest first."""
    found: _Wanted = {}
    for path in first_paths(slim).values():
        if path:
            above = path.rpartition(".")[0]
            found[path] = {**(found.get(above, {}) if deep else {}), **wanted.get(above, {})}
    return found


def _candidates(slim: nn.Module, said: list[_Wanted], *above: _Wanted) -> Iterator[Change]:
    """Attributes to set. said: the most telling first; who says two things of a size says nothing of it. above: counts least."""
    for module, path in first_paths(slim).items():
        if type(module).__module__.startswith("torch.nn"):
            continue
        found: dict[int, set[int]] = {}
        for told in (*above, *reversed(said)):
            found |= told.get(path, {})
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
    call, new = written_down(node), wanted(node, sizes)
    if "split" in call.op and type(call.arg(1)) is int:
        yield from _run_length(call, new)
    elif new.op == call.op:
        pairs = zip(call.args, new.args, strict=False)
        yield from (p for a, b in pairs for p in _pairs(a, b) if p[0] != p[1])


def _factors(node: Node, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """(old, new) of what the sizes that the node was given are products of: batch * heads."""
    given = {old for old, _ in _changes(node, sizes)}
    for value in node.outputs if given else ():
        for dim in sizes.coupling.dims.get(value, ()) if value is not None else ():
            if len(dim) > 1 and size_of(dim) in given:
                pairs = ((x.size, sizes.extent((x,))) for x in dim)
                yield from ((old, new) for old, new in pairs if old != new)


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
        new = None if name in layers or name in _TORCHS else _with(value, changes)
        if new is not None:
            yield Change(module, name, own.get(name), new)


def _with(value: Any, changes: dict[int, int]) -> Any:
    """A number, or what holds numbers, with the sizes that change; None where there are none in it."""
    if type(value) is int:
        return changes.get(value)
    if type(value) in (tuple, list):
        found = [_with(v, changes) for v in value]
        new = (v if f is None else f for v, f in zip(value, found, strict=True))
        return type(value)(new) if any(f is not None for f in found) else None
    if type(value) is dict:
        new = _with((*value.values(),), changes)
        return new and dict(zip(value, new, strict=True))
    if type(value) is partial:
        new = _with((value.args, value.keywords), changes)
        return new and partial(value.func, *new[0], **new[1])
    return None


def _of_layer(kind: type) -> frozenset[str]:
    """What a layer of torch.nn says of itself, which was set with its tensors: also where users build upon it."""
    layers = [k for k in kind.__mro__ if k.__module__.startswith("torch.nn")]
    return frozenset(name for k in layers for name in getattr(k, "__constants__", ()))


def _of_class(kind: type) -> dict[str, Any]:
    """What the user's classes hold for all of their modules: `heads = 4` in a class body."""
    users = [k for k in kind.__mro__ if not k.__module__.startswith(("torch.nn", "builtins"))]
    return {name: value for k in reversed(users) for name, value in vars(k).items()}
