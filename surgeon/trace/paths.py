"""A forward that depends on the data, recorded along several paths: one graph of all that may run.

The run on the inputs as they are comes first. Where something in it was empty (nothing detected), the
code behind saw nothing: further runs have random weights that find something. So have runs where a parameter was
not read at all: an expert that no token was sent to. Where a number read into Python decided, further runs give
another one; what they have in common with the first is not computed again. A path that fails, or that runs no new
line, is left out.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from surgeon.graph import Graph, Node, Value
from surgeon.trace.decisions import Decisions, Forced, others
from surgeon.trace.draw import DRAWS, shake
from surgeon.trace.drawn import Drawn
from surgeon.trace.inputs import Inputs
from surgeon.trace.memory import Forgotten, Memory
from surgeon.trace.record import Recorder, prepared, run_recorded

# runs with random weights for parameters that no run read, and how many in turn may find nothing: more, the more did
_ROUTES, _PATIENCE = 48, 4
_RUNS = 12  # further runs: enough for a few decisions, each of which is a line of code


def record_paths(model: nn.Module, inputs: Inputs) -> Graph:
    """The graph of a forward on real tensors, all paths that were found one after another.

    `graph.own` counts the nodes of the first. Raises what the model's forward raises on these inputs.
    """
    twin, recorder = prepared(model, on_meta=False)
    graph = recorder.graph
    _follow(twin, recorder, inputs)
    for gain, seed in DRAWS if _starved(graph.nodes) else ():
        shake(twin, seed, gain)
        if _found(twin, recorder, inputs):
            break
    found = missed = 0
    for seed in range(_ROUTES):
        if missed == _PATIENCE + found or not _unread(graph):
            break
        shake(twin, seed)
        before = len(graph.nodes)
        with Drawn():
            _try(twin, recorder, inputs, None, Memory.none())
        if len(graph.nodes) > before:
            found, missed = found + 1, 0
        else:
            missed += 1
    return graph


def _unread(graph: Graph) -> bool:
    """Whether no run read some parameter."""
    read = {value for node in graph.nodes for value in node.inputs}
    return any(graph.state[name] not in read for name in graph.parameters)


def _found(twin: nn.Module, recorder: Recorder, inputs: Inputs) -> bool:
    """Whether a run shows something new: with drawn numbers where nothing stays empty then, else computed."""
    graph, drawn = recorder.graph, Drawn()
    before, ends = len(graph.nodes), graph.ends
    with drawn:
        _try(twin, recorder, inputs, None, Memory.none())
    if drawn.ops and (_starved(graph.nodes) or len(graph.nodes) == before):
        del graph.nodes[before:]
        graph.ends = ends
        _try(twin, recorder, inputs, None, Memory.none())
    return len(graph.nodes) > before


def _copy(inputs: Inputs) -> Inputs:
    """A forward may write to its inputs, and another run must find them as they were."""
    return inputs.map(torch.clone)


def _follow(twin: nn.Module, recorder: Recorder, inputs: Inputs) -> None:
    """The run on the inputs as they are, and those in which a number that it read was another."""
    memory, graph = Memory(), recorder.graph
    first = Decisions(on_new=partial(_mark, memory, graph, None))
    with memory, first:
        graph.outputs = run_recorded(twin, recorder, _copy(inputs))
    graph.own = len(graph.nodes)
    todo, done = list(others(first.read)), set[Forced]()
    while todo and len(done) < _RUNS:
        forced = todo.pop(0)
        if forced in done:
            continue
        done.add(forced)
        known = set(first.read)
        try:
            read = _try(twin, recorder, inputs, forced, memory)
        except Forgotten:
            memory = Memory()  # the network keeps something of its first run: remember the second
            read = _try(twin, recorder, inputs, forced, memory)
        if read is None:
            continue
        if forced.place not in read:
            todo = [x for x in todo if x.place in read]  # nor will it reach these again
        for place, numbers in read.items():
            first.read.setdefault(place, []).extend(numbers)
        todo += [x for x in others(first.read) if x.place not in known]


def _try(
    twin: nn.Module,
    recorder: Recorder,
    inputs: Inputs,
    forced: Forced | None,
    memory: Memory,
) -> dict[str, list[bool | int | float]] | None:
    """One more run; the numbers it read, None where it failed. One that shows nothing new is taken back:
    neither a line of code nor, where it returns earlier, an output."""
    graph, before = recorder.graph, len(recorder.graph.nodes)
    decisions = Decisions(forced, partial(_mark, memory, graph, forced))
    seen = {_line(node) for node in graph.nodes if _full(node)}
    ends = _made_at(graph.nodes, (*graph.outputs, *graph.ends))
    try:
        with memory.begun(forced.place if forced else ""), decisions:
            outputs = run_recorded(twin, recorder, _copy(inputs))
    except Forgotten:
        del graph.nodes[before:]
        raise
    except Exception:  # noqa: BLE001  a path that cannot be taken is none
        del graph.nodes[before:]
        return None
    known = all(_line(node) in seen for node in graph.nodes[before:] if _full(node))
    if known and _made_at(graph.nodes, outputs) <= ends:
        del graph.nodes[before:]
    else:
        graph.ends += outputs
    return decisions.read


def _mark(memory: Memory, graph: Graph, forced: Forced | None, place: str) -> None:
    """A line is reached for the first time: other runs may begin alike up to here, unless a tensor left torch,
    whose numbers others may read then, or this run is another one from here on."""
    if any(node.target is None for node in graph.nodes):
        memory.stop()
    memory.mark(place)
    if forced and forced.place == place:
        memory.stop()


def _made_at(nodes: list[Node], values: tuple[Value, ...]) -> set[tuple[str, str, str]]:
    """The lines of code that made these values."""
    return {_line(node) for node in nodes for value in node.outputs if value in values}


def _line(node: Node) -> tuple[str, str, str]:
    return node.module, node.source, node.op


def _full(node: Node) -> bool:
    """Whether there was something in what it read and in its first result; spare results may be empty."""
    read = node.inputs
    return not read or all(0 not in v.shape for v in (*read, *node.outputs[:1]) if v)


def _starved(nodes: list[Node]) -> bool:
    """Whether some line of code that works on real numbers saw empty tensors only: weights have no say in the others."""
    full = {_line(node) for node in nodes if _full(node)}
    return any(_line(node) not in full and _on_numbers(node) for node in nodes)


def _on_numbers(node: Node) -> bool:
    """Whether it reads or gives floats, not indices and masks alone."""
    return any(v.is_number for v in (*node.inputs, *node.outputs) if v)
