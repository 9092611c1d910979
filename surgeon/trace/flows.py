"""Which layers read what other layers gave, over the runs of a graph: what a run joins that none before it did."""

from __future__ import annotations

from collections.abc import Iterator

from surgeon.graph import Graph, Node, Value

Line = tuple[str, str, str]  # the module, the place in its code, the op
Sources = frozenset[str]  # of a value: the state that the layers before it read


def line_of(node: Node) -> Line:
    """Where in the code it stands."""
    return node.module, node.source, node.op


def is_full(node: Node) -> bool:
    """Whether there was something in what it read and in its first result; spare results may be empty."""
    read = node.inputs
    return not read or all(0 not in v.shape for v in (*read, *node.outputs[:1]) if v)


def has_new_flow(nodes: list[Node], start: int) -> bool:
    """Whether, from a node on, some line of code reads what none of its runs before read: results of other layers, other state."""
    seen: set[tuple[Line, tuple[Sources, ...]]] = set()
    for node, read in _walked(nodes, {}):
        flow = line_of(node), read
        if is_full(node) and flow not in seen:
            if node.index >= start:
                return True
            seen.add(flow)
    return False


def meets(nodes: list[Node], names: Sources) -> bool:
    """Whether some op reads state of these names, or what was made of it, together with other state, or what other layers gave."""
    for node, read in _walked(nodes, {}):
        met = _state(node).union(*read)
        if met & names and met - names:
            return True
    return False


def joins_more(seen: Graph, other: Graph) -> bool:
    """Whether the other graph leads what some parameters gave to a parameter, a buffer or an output, where the one that was seen
    does not; by which ops is all the same."""
    if not _joints(other) <= _joints(seen):
        return True
    known = _met(seen)
    return any(
        not any(layers <= more for more in known.get(name, ()))
        for name, found in _met(other).items()
        for layers in found
    )


def _joints(graph: Graph) -> set[tuple[Sources, Sources]]:
    made: dict[Value, Sources] = {}
    found = {
        (own, Sources().union(*read))
        for node, read in _walked(graph.nodes, made, graph.parameters)
        if (own := _state(node) & graph.parameters)
    }
    return found | {(Sources(), made.get(v, Sources())) for v in (*graph.outputs, *graph.ends)}


def _met(graph: Graph) -> dict[str, set[Sources]]:
    """Buffer -> the parameters, or those behind the results, that it or what was made of it meets in one op."""
    made: dict[Value, Sources] = {}
    found: dict[str, set[Sources]] = {}
    for node in graph.nodes:
        state = _state(node) & (graph.parameters | graph.beside)
        met = state.union(*(made.get(v, Sources()) for v in node.inputs))
        layers = met & graph.parameters
        for name in met - graph.parameters if layers else ():
            found.setdefault(name, set()).add(layers)
        sources = state & graph.parameters or met
        made.update((v, sources) for v in node.outputs if v)
    return found


def _walked(
    nodes: list[Node], made: dict[Value, Sources], layers: Sources | None = None
) -> Iterator[tuple[Node, tuple[Sources, ...]]]:
    """Each node with the sources of what it reads; `made` those of every value up to there. layers: the state that counts (None: all)."""
    for node in nodes:
        read = tuple(made.get(v, Sources()) for v in node.inputs)
        yield node, read
        own = _state(node) if layers is None else _state(node) & layers
        sources = own or Sources().union(*read)
        made.update((v, sources) for v in node.outputs if v)


def _state(node: Node) -> Sources:
    return Sources(name for v in node.inputs for name in v.state)
