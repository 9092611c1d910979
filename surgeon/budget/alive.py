"""The most elements of activations that are alive at once in a forward, as a function of what is cut."""

from __future__ import annotations

from dataclasses import dataclass

from surgeon.budget.cost import computed
from surgeon.budget.extents import Extents, product_of
from surgeon.couple import Coupling
from surgeon.graph import Node, Value

# other names for the same elements, or gone once a graph is exported
_NAMES = set(
    """alias clone contiguous detach expand reshape select slice split split_with_sizes squeeze t
    _to_copy unbind unfold unsafe_split unsqueeze view _unsafe_view _reshape_alias dropout lift_fresh""".split()
)


@dataclass(frozen=True)
class _Moment:
    """One node: storages that it makes, by the leaves of their sizes, and how many made before are let go after it."""

    made: tuple[list[int], ...]
    freed: tuple[int, ...]


def short_name(node: Node) -> str:
    """'aten.relu_.default' -> 'relu'."""
    return node.op.rsplit(".", 1)[0].removeprefix("aten.").rstrip("_")


def renames(node: Node) -> bool:
    """Whether a node computes nothing and fills no storage of its own."""
    return short_name(node) in _NAMES


class Alive:
    """`most(sizes)` of a forward whose tensors are freed after their last use, in the order of the code."""

    def __init__(self, coupling: Coupling, extents: Extents) -> None:
        graph = coupling.graph
        nodes = [node for node, once in computed(graph) if not once]
        root: dict[Value, Value] = {}
        for node in nodes:
            if renames(node) and node.inputs:
                root |= {
                    v: root.get(node.inputs[0], node.inputs[0])
                    for v in node.outputs
                    if v is not None
                }
        last: dict[Value, int] = {}
        for at, node in enumerate(nodes):
            last |= {root.get(v, v): at for v in node.inputs}
        last |= {root.get(v, v): len(nodes) for v in graph.outputs}
        self._moments: list[_Moment] = []
        number: dict[Value, int] = {}
        made: list[list[int]] = []
        for at, node in enumerate(nodes):
            new = [
                v for v in node.outputs if v is not None and v not in root and v in coupling.dims
            ]
            number |= {v: len(made) + k for k, v in enumerate(new)}
            made += [extents.of(v) for v in new]
            gone = [v for v in {root.get(v, v) for v in node.inputs} if last[v] == at]
            freed = tuple(number[v] for v in gone if v in number)
            self._moments.append(_Moment(tuple(extents.of(v) for v in new), freed))

    def most(self, sizes: list[int]) -> int:
        """Elements, given the size of every leaf (`Extents.after`)."""
        made: list[int] = []
        now = peak = 0
        for moment in self._moments:
            new = [product_of(sizes, refs) for refs in moment.made]
            made += new
            now += sum(new)
            peak = max(peak, now)
            now -= sum(made[k] for k in moment.freed)
        return peak
