"""A forward that depends on the data, recorded along several paths: one graph of all that may run.

The run on the inputs as they are comes first. Where something in it was empty (nothing detected), the
code behind saw nothing: further runs have random weights that find something. So have runs where a parameter was
not read at all: an expert that no token was sent to. Where a number read into Python decided, further runs give
another one; what they have in common with the first is not computed again. A path that fails, or that runs no new
line, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from surgeon.graph import Graph, Node, Path, Value
from surgeon.trace.decisions import Decisions, Number, others
from surgeon.trace.draw import DRAWS, shake
from surgeon.trace.drawn import Drawn
from surgeon.trace.inputs import Inputs
from surgeon.trace.memory import Forgotten, Memory
from surgeon.trace.place import line_of
from surgeon.trace.recorder import Recorder, prepared, run_recorded

# runs with random weights for parameters that no run read, and how many in turn may find nothing: more, the more did
_ROUTES, _PATIENCE = 48, 4
_RUNS = 12  # further runs: enough for a few decisions, each of which is a line of code
_READ = "aten._local_scalar_dense.default"
# what Python makes tensors of numbers with
_MADE = frozenset(
    f"aten.{n}.default"
    for n in ("lift_fresh", "lift_fresh_copy", "scalar_tensor", "full", "arange")
)
_Read = dict[str, list[Number]]  # by place


def record_paths(model: nn.Module, inputs: Inputs) -> Graph:
    """The graph of a forward on real tensors, all paths that were found one after another.

    `graph.own` counts the nodes of the first, `graph.turns` are the numbers that led to others. Raises what the model's
    forward raises on these inputs.
    """
    twin, recorder = prepared(model, on_meta=False)
    runs = _Runs(twin, recorder, inputs)
    _follow(runs)
    graph = runs.graph
    for gain, seed in DRAWS if _starved(graph.nodes) else ():
        shake(twin, seed, gain)
        if _found(runs):
            break
    found = missed = 0
    for seed in range(_ROUTES):
        if missed == _PATIENCE + found or not _unread(graph):
            break
        shake(twin, seed)
        before = len(graph.nodes)
        with Drawn():
            _tried(graph, runs.anew)
        if len(graph.nodes) > before:
            found, missed = found + 1, 0
        else:
            missed += 1
    return graph


def record_turns(
    twin: nn.Module, recorder: Recorder, inputs: Inputs, turns: Sequence[Path]
) -> None:
    """Record a forward on real tensors on these inputs, and again along each of these paths. Raises what it raises on
    any of them."""
    runs = _Runs(twin, recorder, inputs)
    runs.first()
    for path in turns:
        outputs, _ = runs.again(path)
        runs.graph.ends += outputs
    runs.graph.turns = (*turns,)


class _Runs:
    """Recorded runs of one network on the same inputs, each of them on the network as it was before the first:
    what a forward keeps on its modules for the next one (scales that follow the first images) is taken off again."""

    def __init__(self, twin: nn.Module, recorder: Recorder, inputs: Inputs) -> None:
        self.graph = recorder.graph
        self._twin, self._recorder, self._inputs = twin, recorder, inputs
        plain = (m for m in twin.modules() if not isinstance(m, torch.jit.ScriptModule))
        self._before = [(m, dict(m.__dict__), dict(m._buffers)) for m in plain]
        self._memory = Memory()

    def first(self) -> _Read:
        """The run on the inputs as they are, which those that are run again begin like. The numbers that it read."""
        self.graph.outputs, read = self._once((), self._memory)
        self.graph.own = len(self.graph.nodes)
        return read

    def again(self, path: Path) -> tuple[tuple[Value, ...], _Read]:
        """The run in which some numbers are others: its outputs, and the numbers that it read."""
        before = len(self.graph.nodes)
        try:
            return self._once(path, self._memory)
        except Forgotten:  # the network keeps something of its first run: remember the second
            del self.graph.nodes[before:]
            self._memory = Memory()
            return self._once(path, self._memory)

    def anew(self) -> tuple[tuple[Value, ...], _Read]:
        """A run that is like no other, on whatever weights the network has now."""
        return self._once((), Memory.none())

    def _once(self, path: Path, memory: Memory) -> tuple[tuple[Value, ...], _Read]:
        for module, attributes, buffers in self._before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        inputs = self._inputs.map(torch.clone)  # a forward may write to its inputs
        places = [forced.place for forced in path]
        decisions = Decisions(path, partial(_mark, memory, self.graph, places))
        with memory.begun(places[0] if places else ""), decisions:
            outputs = run_recorded(self._twin, self._recorder, inputs)
        return outputs, decisions.read


def _unread(graph: Graph) -> bool:
    """Whether no run read some parameter."""
    read = {value for node in graph.nodes for value in node.inputs}
    return any(graph.state[name] not in read for name in graph.parameters)


def _found(runs: _Runs) -> bool:
    """Whether a run shows something new: with drawn numbers where nothing stays empty then, else computed."""
    graph, drawn = runs.graph, Drawn()
    before, ends = len(graph.nodes), graph.ends
    with drawn:
        _tried(graph, runs.anew)
    if drawn.ops and (_starved(graph.nodes) or len(graph.nodes) == before):
        del graph.nodes[before:]
        graph.ends = ends
        _tried(graph, runs.anew)
    return len(graph.nodes) > before


def _follow(runs: _Runs) -> None:
    """The run on the inputs as they are, and those in which a number that it read was another; where one of these reads
    a number that none before read, those in which that one is another too."""
    graph = runs.graph
    read = runs.first()
    decided, known = _decided(graph), set(read)
    todo: list[Path] = [(x,) for x in others(read) if line_of(x.place) in decided]
    for _ in range(_RUNS):
        if not todo:
            break
        path, before = todo.pop(0), len(graph.nodes)
        read = _tried(graph, partial(runs.again, path))
        if read is None or len(graph.nodes) == before:
            continue
        graph.turns += (path,)
        decided |= _decided(graph)
        unread = {place: numbers for place, numbers in read.items() if place not in known}
        known |= set(unread)
        todo += [(*path, x) for x in others(unread) if line_of(x.place) in decided]


def _decided(graph: Graph) -> set[str]:
    """The lines where a number is read that inputs, state or chance decide, and not the code alone (a scale that is
    worked out with tensors)."""
    told = {*graph.given, *graph.state.values()}
    made: dict[Value, Node] = {}
    found, left = set[str](), False
    for node in graph.nodes:
        if (
            told.isdisjoint(node.inputs)
            and not _by_chance(node)
            and not (left and node.op in _MADE)
        ):
            made.update((v, node) for v in node.outputs if v and v not in made)
            continue
        told.update(v for v in node.outputs if v)
        if node.op == _READ:
            found.add(node.source)
        if node.op == _READ or node.target is None:
            left = True  # Python knows it, and may make tensors of it
        elif _is_mutable(node):
            _tell(told, made, node)  # what it writes to may be a view of what is read
    return found


def _by_chance(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _tell(told: set[Value], made: dict[Value, Node], node: Node) -> None:
    """Count what a node's operands were made of."""
    todo = [*node.inputs]
    while todo:
        value = todo.pop()
        told.add(value)
        if value in made:
            todo += [v for v in made.pop(value).inputs if v not in told]


def _tried(graph: Graph, run: Callable[[], tuple[tuple[Value, ...], _Read]]) -> _Read | None:
    """One more run; the numbers it read, None where it failed. One that shows nothing new is taken back:
    neither a line of code nor, where it returns earlier, an output."""
    before = len(graph.nodes)
    seen = {_line(node) for node in graph.nodes if _full(node)}
    ends = _made_at(graph.nodes, (*graph.outputs, *graph.ends))
    try:
        outputs, read = run()
    except Exception:  # noqa: BLE001  a path that cannot be taken is none
        del graph.nodes[before:]
        return None
    known = all(_line(node) in seen for node in graph.nodes[before:] if _full(node))
    if known and _made_at(graph.nodes, outputs) <= ends:
        del graph.nodes[before:]
    else:
        graph.ends += outputs
    return read


def _mark(memory: Memory, graph: Graph, forced: Sequence[str], place: str) -> None:
    """A line is reached for the first time: other runs may begin alike up to here, unless a tensor left torch,
    whose numbers others may read then, or this run is another one from here on."""
    if any(node.target is None for node in graph.nodes):
        memory.stop()
    memory.mark(place)
    if place in forced:
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
