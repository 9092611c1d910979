"""Does a cut model compute what it should? Its recorded ops against the original's, size by size.

No weights and no tolerance: every op of the cut model must be the original's op, on tensors of the
planned shapes, with exactly the size and position arguments that the algebra says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgeon.cut.asked import asked
from surgeon.cut.lacking import lack
from surgeon.cut.resize import resize
from surgeon.cut.sizes import Call, Numbers, Positions, Sizes
from surgeon.graph import Graph, Node, Value

STRIDED = {"aten.as_strided_.default", "aten.as_strided.default"}  # strides follow from the shape

_MADE = "aten.lift_fresh.default"
_VIEWS = {"aten.view", "aten.reshape", "aten._unsafe_view"}


@dataclass(frozen=True)
class Misfit:
    """Why a cut model's forward is not the planned one. It is not `certain` where torch runs other
    ops on the cut tensors (it drops dimensions of one, and copies what is not laid out in a row): then
    only numbers can tell."""

    why: str
    certain: bool = True
    at: int | None = None  # the original's node, where one can be named


def misfit(
    original: Graph, slim: Graph, sizes: Sizes, folded: frozenset[int] = frozenset()
) -> Misfit | None:
    """The first node of the cut model's forward that is not as planned, or None.

    folded: nodes whose constants the cut model holds in its weights.
    """
    outputs = [sizes.shape(v) for v in original.outputs]
    if outputs != [v.shape for v in slim.outputs]:
        return Misfit(f"its outputs have shapes {[list(v.shape) for v in slim.outputs]}")
    if [n.op for n in original.run] != [n.op for n in slim.run]:
        if narrowed_to_one(sizes):
            return Misfit("torch runs other ops on dimensions of one", certain=False)
        if _laid_out_otherwise(original, slim, sizes):
            return Misfit("torch runs other ops on tensors laid out otherwise", certain=False)
    if len(original.run) != len(slim.run):
        return Misfit(f"its forward runs {len(slim.run)} ops instead of {len(original.run)}")
    used, free = _used(original), folded | asked(original)
    for old, new in zip(original.run, slim.run, strict=True):
        why = _differs(old, new, sizes, (used, old.index in free))
        if why:
            return Misfit(f"{why}, at {old.where}", at=old.index)
    return None


def asks_otherwise(original: Graph, slim: Graph, sizes: Sizes) -> bool:
    """Whether Python reads numbers of ops with other arguments than planned: which of two layers alike runs then, no shape tells.
    Numbers that the code makes a tensor of are its widths, as read."""
    used, free = _used(original), asked(original)
    pairs = zip(original.run, slim.run, strict=False)
    told = ((old, new) for old, new in pairs if old.index in free and old.op != _MADE)
    return any(_differs(old, new, sizes, (used, False)) for old, new in told)


def first_off(original: Graph, slim: Graph, sizes: Sizes) -> int | None:
    """The first node of the original that the cut model's forward, as far as it came, did not run as planned;
    scales that follow a width are let pass. None where every one ran."""
    off = _off(original, sizes)
    for old, new in zip(original.run, slim.run, strict=False):
        if off(old, new):
            return old.index
    rest = original.run[len(slim.run) :]
    return rest[0].index if rest else None


class Off(BaseException):
    """An op of a trial is not the planned one, and nobody needs what comes behind it. No Exception: a forward that catches these
    goes on."""

    def __init__(self, misfit: Misfit) -> None:
        super().__init__(misfit.why)
        self.misfit = misfit


def following(original: Graph, sizes: Sizes) -> Callable[[Node], None]:
    """What looks at each op of a cut model's forward as it runs, and raises Off at the one where `first_off` would find it."""
    run, off = original.run, _off(original, sizes)

    def look(new: Node) -> None:
        old = run[new.index] if new.index < len(run) else None
        why = off(old, new) if old is not None else None
        if old is not None and why:
            raise Off(Misfit(f"{why}, at {old.where}", at=old.index))

    return look


def _off(original: Graph, sizes: Sizes) -> Callable[[Node, Node], str | None]:
    """What says why a node is not the planned one; scales that follow a width are let pass."""
    used, free = _used(original), asked(original)

    def why(old: Node, new: Node) -> str | None:
        passes = old.index in free or lack(old, new) is not None
        return _differs(old, new, sizes, (used, passes))

    return why


def _used(graph: Graph) -> set[Value]:
    return {v for node in graph.run for v in node.inputs} | set(graph.outputs)


def written(original: Graph, slim: Graph, sizes: Sizes, at: int | None = None) -> str | None:
    """What to write where the first op of a cut forward that is not as planned, as far as the forward
    came, was given a size of the original's; None where something else differs first.

    at: the node on another path that was not followed, where the forward on the inputs as they are is as planned."""
    used, free = _used(original), asked(original)
    for old, new in zip(original.run, slim.run, strict=False):
        if old.op != new.op:
            return None
        if _differs(old, new, sizes, (used, old.index in free)) is None:
            continue
        return _to_write(old, new, sizes)
    if at is None or at < len(original.run):
        return None
    line = original.nodes[at].module, original.nodes[at].source
    of_line = (n for n in original.nodes[len(original.run) :] if (n.module, n.source) == line)
    return next(filter(None, (_to_write(n, n, sizes) for n in of_line)), None)


def _to_write(old: Node, new: Node, sizes: Sizes) -> str | None:
    kept = _kept_sizes(old.args, wanted(old, sizes).args, new.args)
    if kept is None:
        return None
    return (
        f"{old.source}: a size there stays {kept[0]} where the cut makes {kept[1]} of it; take it"
        " from x.shape[...] instead of writing it out, and the forward follows"
    )


def _kept_sizes(old: Any, want: Any, new: Any) -> tuple[int, int] | None:
    """The first number that should have changed and did not, and what it should be."""
    if isinstance(old, (list, tuple)):
        if not isinstance(want, (list, tuple)) or not isinstance(new, (list, tuple)):
            return None
        if len(old) != len(want) or len(old) != len(new):
            return None
        each = (_kept_sizes(a, b, c) for a, b, c in zip(old, want, new, strict=True))
        return next((found for found in each if found is not None), None)
    numbers = type(old) is int and type(want) is int and type(new) is int
    return (old, want) if numbers and new == old != want else None


def narrowed_to_one(sizes: Sizes) -> bool:
    """Whether some dimension was cut down to a single element."""
    values = sizes.coupling.graph.values
    return any(1 in sizes.shape(v) and 1 in _new_ones(v, sizes) for v in values if v.shape)


def _new_ones(value: Value, sizes: Sizes) -> list[int]:
    return [n for n, old in zip(sizes.shape(value), value.shape, strict=True) if n != old]


def _laid_out_otherwise(original: Graph, slim: Graph, sizes: Sizes) -> bool:
    """Whether a planned op gives a tensor in a row where it did not, or the other way round (a gather
    for a slice), before the first op that is not as planned."""
    for old, new in zip(original.run, slim.run, strict=False):
        if new.op not in (old.op, wanted(old, sizes).op):
            return False
        for a, b in zip(old.outputs, new.outputs, strict=False):
            if a is not None and b is not None and _in_a_row(a) != _in_a_row(b):
                return True
    return False


def _in_a_row(value: Value) -> bool:
    """Whether a tensor is contiguous."""
    each = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride), strict=False):
        if size != 1 and stride != each:
            return False
        each *= size
    return True


def wanted(old: Node, sizes: Sizes) -> Call:
    """The planned call of a node on the cut tensors."""
    known = sizes.planned.get(old)
    if known is None:
        known = sizes.planned[old] = resize(written_down(old), sizes)
    return known


def written_down(node: Node) -> Call:
    """The recorded call of a node."""
    outputs = tuple(v for v in node.outputs if v is not None)
    x = next(iter(node.inputs), None)
    return Call(node.op, node.args, node.kwargs, x, outputs, (node,))


def _differs(old: Node, new: Node, sizes: Sizes, known: tuple[set[Value], bool]) -> str | None:
    used, folded = known
    want = wanted(old, sizes)
    if new.op not in (old.op, want.op) and not _both_split(want, new):
        return f"{new.op} runs where {old.op} did"
    if len(old.outputs) != len(new.outputs):
        return f"{old.op} gives {len(new.outputs)} results where {len(old.outputs)} are planned"
    for a, b in zip(old.outputs, new.outputs, strict=True):
        if a in used and a is not None and b is not None and sizes.shape(a) != b.shape:
            return f"{old.op} gives {list(b.shape)} where {list(sizes.shape(a))} is planned"
    if old.op in STRIDED or folded or _both_split(want, new):
        return None
    if new.op != want.op:
        return f"{old.op} with {_plain(old.args)} cannot be written for the cut tensors"
    planned, given = _seen_as(want.args, new), _seen_as(new.args, new)
    if not _same(_positions(planned, want, sizes), _positions(given, want, sizes)) or not _same(
        want.kwargs, new.kwargs
    ):
        return f"{old.op} is given {_plain(new.args)} where {_plain(want.args)} is planned"
    return None


def _positions(args: Any, call: Call, sizes: Sizes) -> Any:
    """A slice is the positions that it takes, however they are written."""
    if not call.op.startswith("aten.slice.") or call.x is None:
        return args
    dim = (args[1] if len(args) > 1 else 0) % len(call.x.shape)
    start, end, step = (*args[2:], None, None, None)[:3]
    if any(type(x) is not int and x is not None for x in (start, end, step)):
        return args
    return args[0], dim, tuple(range(sizes.shape(call.x)[dim])[start:end:step])


def _seen_as(args: tuple[Any, ...], node: Node) -> tuple[Any, ...]:
    """Arguments of a view with the size that its -1 stands for."""
    packet, out = node.op.rpartition(".")[0], node.outputs[0] if node.outputs else None
    if packet not in _VIEWS or out is None or not isinstance(args[1], (list, tuple)):
        return args  # view also sees a tensor as another dtype
    if -1 not in args[1]:
        return args
    return (args[0], type(args[1])(out.shape), *args[2:])


def _both_split(want: Call, new: Node) -> bool:
    """A split is the planned one when its runs are: their sizes are compared as output shapes."""
    return "split" in want.op and "split" in new.op


def _same(want: Any, new: Any) -> bool:
    if isinstance(want, Positions):
        return (
            isinstance(new, Value)
            and new.constant is not None
            and new.constant.tolist() == list(want.index)
        )
    if isinstance(want, Value | Numbers):
        return isinstance(new, Value)
    if isinstance(want, (list, tuple)):
        return (
            isinstance(new, (list, tuple)) and len(want) == len(new) and all(map(_same, want, new))
        )
    if isinstance(want, dict):
        return want.keys() == new.keys() and all(_same(v, new[k]) for k, v in want.items())
    if isinstance(want, float) and isinstance(new, float):
        return math.isclose(want, new, rel_tol=1e-12) or (want != want and new != new)
    return want == new


def _plain(args: Any) -> str:
    """Arguments without their tensors."""
    if isinstance(args, Value):
        return str(args)
    if isinstance(args, Positions):
        return str(list(args.index))
    if isinstance(args, Numbers):
        return str(args.tensor.tolist())
    if isinstance(args, (list, tuple)):
        return "(" + ", ".join(_plain(a) for a in args) + ")"
    return repr(args)
