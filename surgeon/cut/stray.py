"""Does a cut model whose ops depend on the data run planned ops? Compared line by line of its code.

How many boxes there are differs from network to network, so two recordings cannot be laid side by side. But
each op of the cut model that touches a cut dimension must be one that the original ran, in the same module
and line, with the extents and size arguments planned for it. Whether the numbers are right only the oracle
can tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from surgeon.cut.fits import STRIDED, Misfit
from surgeon.cut.resize import resize
from surgeon.cut.sizes import Call, Sizes
from surgeon.graph import Graph, Node, Value

_Place = tuple[str, str]  # module, source line
_ROWS = "aten.unbind.int"


@dataclass(frozen=True)
class _Planned:
    """What one op may be on the cut tensors: extents of its tensors (None: the data's affair), and
    those of its arguments that hold sizes."""

    ops: frozenset[str]
    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...] | None, ...]
    args: tuple[Any, ...]

    def allows(self, node: Node) -> bool:
        """Whether a recorded node is this op."""
        outputs = self.outputs
        if node.op == _ROWS and outputs:  # as many as there are rows, which is part of what is read
            outputs = outputs[:1] * len(node.outputs)
        return (
            node.op in self.ops
            and _fit(self.inputs, [v.shape for v in node.inputs])
            and _fit(outputs, [v.shape if v else None for v in node.outputs])
            and _fit_args(self.args, node.args)
        )


def stray(original: Graph, slim: Graph, sizes: Sizes) -> Misfit | None:
    """The first op of the cut model that was not planned, at the original's first of its line; or None."""
    plans = _plans(original, sizes)
    read = {v.state[0] for node in original.nodes for v in node.inputs if v.state}
    idle = _idle(slim)
    for node in slim.nodes:
        place = node.module, node.source
        if place not in plans:
            own = next((v.state[0] for v in node.inputs if v.state and v.state[0] not in read), "")
            if own:
                return Misfit(f"it reads {own}, which the original's forward did not{_at(node)}")
        elif plans[place] and not any(p.allows(node) for p in plans[place]):
            if node.index in idle and all(node.op not in p.ops for p in plans[place]):
                continue
            why = f"{node.op} runs there as it was not planned{_at(node)}"
            return Misfit(why, at=_first_at(original, place, _Shapes(sizes)))
    return None


def _first_at(original: Graph, place: _Place, shapes: _Shapes) -> int:
    """The first node of a line that touches a cut dimension: a condition may stand before it."""
    line = [n for n in original.nodes if (n.module, n.source) == place]
    return next((n.index for n in line if any(map(shapes.cut, _values(n)))), line[0].index)


def _values(node: Node) -> list[Value]:
    return [*node.inputs, *(v for v in node.outputs if v is not None)]


def _idle(slim: Graph) -> set[int]:
    """Nodes that compute nothing: all that they give, or that is made of it, is empty. Where no box was found, torch
    runs other ops (a batch norm copies its input and multiplies by a single scale)."""
    used: dict[Value, list[int]] = defaultdict(list)
    for node in slim.nodes:
        for value in node.inputs:
            used[value].append(node.index)
    idle: set[int] = set()
    returned = {*slim.outputs, *slim.ends}
    for node in reversed(slim.nodes):
        full = [v for v in node.outputs if v is not None and 0 not in v.shape]
        if all(v not in returned and used[v] and idle.issuperset(used[v]) for v in full):
            idle.add(node.index)
    return idle


def _at(node: Node) -> str:
    return f", at {node.where}"


def _plans(original: Graph, sizes: Sizes) -> dict[_Place, tuple[_Planned, ...]]:
    """What may run at each place; nothing is asked where none of its ops touches a cut dimension."""
    shapes = _Shapes(sizes)
    found: dict[_Place, dict[_Planned, None]] = defaultdict(dict)
    touched: set[_Place] = set()
    for node in original.nodes:
        place = node.module, node.source
        if any(map(shapes.cut, _values(node))):
            touched.add(place)
        found[place][_planned(node, shapes)] = None
    return {place: tuple(plans) if place in touched else () for place, plans in found.items()}


class _Shapes:
    """Planned extents of values, each worked out once."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._known: dict[Value, tuple[int, ...]] = {}

    def cut(self, value: Value) -> bool:
        """Whether a dimension of the value shrinks."""
        return self._new(value) != value.shape

    def planned(self, value: Value) -> tuple[int | None, ...]:
        """The extents that shrink; None for the others, which the data may change."""
        return tuple(
            n if n != old else None for n, old in zip(self._new(value), value.shape, strict=True)
        )

    def _new(self, value: Value) -> tuple[int, ...]:
        if value not in self._known:
            self._known[value] = self.sizes.shape(value)
        return self._known[value]


def _planned(node: Node, shapes: _Shapes) -> _Planned:
    outputs = tuple(v for v in node.outputs if v is not None)
    call = Call(node.op, node.args, node.kwargs, next(iter(node.inputs), None), outputs, (node,))
    new = resize(call, shapes.sizes)
    rewritten = new.op != node.op
    asked = () if rewritten or node.op in STRIDED else _changed(node.args, new.args)
    return _Planned(
        frozenset({node.op} if not rewritten else _split_ops(node.op)),
        tuple(shapes.planned(v) for v in node.inputs),
        tuple(shapes.planned(v) if v is not None else None for v in node.outputs),
        asked,
    )


def _split_ops(op: str) -> set[str]:
    """A split is the planned one when its runs are; another op that is rewritten cannot run as it is."""
    return {op, "aten.split_with_sizes.default"} if "split" in op else set()


def _changed(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    """(position, size) of every plain size that the cut changes, (position, index, size) in a list."""
    return tuple(_changes(old, new))


def _changes(old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            yield from (
                (i, k, y)
                for k, (x, y) in enumerate(zip(a, b, strict=False))
                if type(x) is int and type(y) is int and x != y
            )
        elif type(a) is int and type(b) is int and a != b:
            yield (i, b)


def _fit(planned: tuple[Any, ...], shapes: list[Any]) -> bool:
    if len(planned) != len(shapes):
        return False
    return all(
        want is None
        or (
            shape is not None
            and len(want) == len(shape)
            and all(n is None or n == m for n, m in zip(want, shape, strict=True))
        )
        for want, shape in zip(planned, shapes, strict=True)
    )


def _fit_args(planned: tuple[Any, ...], args: tuple[Any, ...]) -> bool:
    for i, *rest in planned:
        found = args[i] if i < len(args) else None
        if len(rest) == 2:
            found = (
                found[rest[0]]
                if isinstance(found, (list, tuple)) and rest[0] < len(found)
                else None
            )
        if found not in (rest[-1], -1):
            return False
    return True
