"""A forward that depends on the data, recorded along several paths: one graph of all that may run.

The run on the inputs as they are comes first. Where something in it was empty (nothing detected), the
code behind saw nothing: further runs have random weights that find something. Where a number read into
Python decided, further runs give another one. A path that fails, or that runs no new line, is left out.
"""

from __future__ import annotations

import torch
from torch import nn

from surgeon.graph import Graph, Node
from surgeon.trace.decisions import Decisions, Forced, others
from surgeon.trace.draw import DRAWS, shake
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import Recorder, prepared, run_recorded

_RUNS = 12  # further runs: enough for a few decisions, each of which is a line of code


def record_paths(model: nn.Module, inputs: Inputs) -> Graph:
    """The graph of a forward on real tensors, all paths that were found one after another.

    `graph.own` counts the nodes of the first. Raises what the model's forward raises on these inputs.
    """
    twin, recorder = prepared(model, on_meta=False)
    graph = recorder.graph
    first = Decisions()
    with first:
        graph.outputs = run_recorded(twin, recorder, _copy(inputs))
    graph.own = len(graph.nodes)
    _follow_others(twin, recorder, inputs, first)
    for gain, seed in DRAWS if _starved(graph.nodes) else ():
        shake(twin, seed, gain)
        before = len(graph.nodes)
        _try(twin, recorder, inputs, None)
        if len(graph.nodes) > before:
            break
    return graph


def _copy(inputs: Inputs) -> Inputs:
    """A forward may write to its inputs, and another run must find them as they were."""
    return inputs.map(torch.clone)


def _follow_others(twin: nn.Module, recorder: Recorder, inputs: Inputs, first: Decisions) -> None:
    todo, done = list(others(first.read)), set[Forced]()
    while todo and len(done) < _RUNS:
        forced = todo.pop(0)
        if forced in done:
            continue
        done.add(forced)
        known = set(first.read)
        for place, numbers in _try(twin, recorder, inputs, forced).items():
            first.read.setdefault(place, []).extend(numbers)
        todo += [x for x in others(first.read) if x.place not in known]


def _try(
    twin: nn.Module, recorder: Recorder, inputs: Inputs, forced: Forced | None
) -> dict[str, list[bool | int | float]]:
    """One more run; the numbers it read. It is taken back where it fails or shows nothing new."""
    graph, before, decisions = recorder.graph, len(recorder.graph.nodes), Decisions(forced)
    seen = {_line(node) for node in graph.nodes if _full(node)}
    try:
        with decisions:
            outputs = run_recorded(twin, recorder, _copy(inputs))
    except Exception:  # noqa: BLE001  a path that cannot be taken is none
        del graph.nodes[before:]
        return {}
    if all(_line(node) in seen for node in graph.nodes[before:] if _full(node)):
        del graph.nodes[before:]
    else:
        graph.ends += outputs
    return decisions.read


def _line(node: Node) -> tuple[str, str, str]:
    return node.module, node.source, node.op


def _full(node: Node) -> bool:
    """Whether there was something in what it read and in its first result; spare results may be empty."""
    read = node.inputs
    return not read or all(0 not in v.shape for v in (*read, *node.outputs[:1]) if v)


def _starved(nodes: list[Node]) -> bool:
    """Whether some line of code saw empty tensors only."""
    full = {_line(node) for node in nodes if _full(node)}
    return any(_line(node) not in full for node in nodes)
