"""The part of a forward that Python alone reads: counts and checks, whose numbers no tensor behind them is made of."""

from __future__ import annotations

from surgeon.graph import Graph


def asked(graph: Graph) -> frozenset[int]:
    """Nodes of the run on the inputs as given whose results reach nothing but Python, and no other code (numpy). What it does
    with these numbers shows in the ops that it then runs, and not always (which of two layers alike is first): the oracle compares them."""
    seen, found = set(graph.outputs), set[int]()
    for node in reversed(graph.run):
        if seen.isdisjoint(node.outputs) and not node.writes and node.target is not None:
            found.add(node.index)
        else:
            seen.update(node.inputs)
    return frozenset(found)
