"""A forward that depends on the data, recorded along several paths: one graph of all that may run.

The run on the inputs as they are comes first. Where something in it was empty (nothing detected), the
code behind saw nothing: further runs have random weights that find something. So have runs where a parameter was
not read at all: an expert that no token was sent to. Where a number read into Python decided, further runs give
another one; what they have in common with the first is not computed again. A path that fails, or that shows nothing new (a
line of code, layers that read what others gave), is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from torch import nn

from surgeon.graph import Forced, Graph, Node, Path, Value
from surgeon.trace.decided import decided
from surgeon.trace.decisions import Read, all_others, hopeless, most_paths, others
from surgeon.trace.draw import DRAWS, shake
from surgeon.trace.drawn import Drawn
from surgeon.trace.flows import Line, has_new_flow, is_full, line_of
from surgeon.trace.inputs import Inputs
from surgeon.trace.memoised import unrecalled
from surgeon.trace.recorder import Recorder, prepared
from surgeon.trace.runs import Ran, Runs
from surgeon.trace.shell import to_meta

# runs with random weights for parameters that no run read, and how many in turn may find nothing: more, the more did
_ROUTES, _PATIENCE = 48, 4
_RUNS = 12  # runs with other numbers, where one is long


def record_paths(model: nn.Module, inputs: Inputs) -> Graph:
    """The graph of a forward on real tensors, all paths that were found one after another.

    `graph.own` counts the nodes of the first, `graph.turns` are the numbers that led to others. Raises what the model's
    forward raises on these inputs.
    """
    twin, recorder = prepared(model, on_meta=False)
    runs = Runs(twin, recorder, inputs)
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
            _tried(graph, runs.anew, lines=True)
        if len(graph.nodes) > before:
            found, missed = found + 1, 0
        else:
            missed += 1
    return graph


def record_turns(
    twin: nn.Module, recorder: Recorder, inputs: Inputs, turns: Sequence[Path]
) -> None:
    """Record a forward on real tensors on these inputs, and again along each of these paths. Raises what it raises on any of them."""
    runs = Runs(twin, recorder, inputs)
    read = runs.first()
    for path in turns:
        if any(forced.at in read for forced in path):  # else it runs what the first one did
            outputs, _ = runs.again(path)
            runs.graph.ends += outputs
    runs.graph.turns = (*turns,)


@unrecalled
def unseen_sides(model: nn.Module, inputs: Inputs) -> tuple[Path, ...]:
    """Paths of a forward that runs on meta, where only whole numbers and truths among its inputs are read: those
    that lead to something new."""
    twin, recorder = prepared(model, on_meta=True)
    runs = Runs(twin, recorder, inputs.map(to_meta))
    _follow(runs)
    return runs.graph.turns


def _follow(runs: Runs) -> None:
    """The run on the inputs as they are, and those in which a number that it read was another; where one of these reads
    a number that none before read, those in which that one is another too. `graph.notes` says what was not tried."""
    graph, first = runs.graph, runs.first()
    lines = decided(graph)
    read = {at: number for at, number in first.items() if at.line in lines}
    graph.reads = tuple(Forced(at, n) for at, n in read.items() if type(n) is not int)
    known, numbers = set(first), _lines(read)
    todo: list[Path] = [*((x,) for x in others(read)), *all_others(read)]
    for _ in range(most_paths(len(graph.nodes), _RUNS)):
        todo = [path for path in todo if not hopeless(path, graph.dead_ends)]
        if not todo:
            break
        path, before = todo.pop(0), len(graph.nodes)
        ran = _tried(graph, partial(runs.again, path))
        if ran is None:
            graph.dead_ends += (path,)
            continue
        if len(graph.nodes) > before:
            graph.turns += (path,)
            lines |= decided(graph, before)
        new = {at: n for at, n in ran.items() if at not in known and at.line in lines}
        known |= set(ran)
        numbers |= _lines(new)
        todo += [(*path, x) for x in others(new)]
    graph.notes += left_torch(graph)
    if todo:
        skipped = dict.fromkeys(path[-1].at.line for path in todo)
        graph.notes += (f"not every side of the decisions at {_few(skipped)} was looked at",)
    elif numbers:
        tried = "far ones on both sides were tried, others may lead elsewhere"
        graph.notes += (f"its forward reads numbers at {_few(numbers)}: {tried}",)


def left_torch(graph: Graph) -> tuple[str, ...]:
    """A note on numbers that other code than torch reads (numpy), where there are any."""
    left = {n.source: n.op for n in graph.run if n.target is None}
    return (
        (f"numbers leave torch at {_few(left)}: what they decide is followed on one side alone",)
        if left
        else ()
    )


def _lines(read: Read) -> dict[str, None]:
    """The lines of code where numbers were read, which may be others than two."""
    return dict.fromkeys(at.line for at, number in read.items() if not isinstance(number, bool))


def _few(lines: Collection[str]) -> str:
    return ", ".join([*lines][:3]) + (" ..." if len(lines) > 3 else "")


def _unread(graph: Graph) -> bool:
    """Whether no run read some parameter."""
    read = {value for node in graph.nodes for value in node.inputs}
    return any(graph.state[name] not in read for name in graph.parameters)


def _found(runs: Runs) -> bool:
    """Whether a run shows something new: with drawn numbers where nothing stays empty then, else computed."""
    graph, drawn = runs.graph, Drawn()
    before, ends = len(graph.nodes), graph.ends
    with drawn:
        _tried(graph, runs.anew, lines=True)
    if drawn.ops and (_starved(graph.nodes) or len(graph.nodes) == before):
        del graph.nodes[before:]
        graph.ends = ends
        _tried(graph, runs.anew, lines=True)
    return len(graph.nodes) > before


def _tried(graph: Graph, run: Callable[[], Ran], *, lines: bool = False) -> Read | None:
    """One more run; the numbers it read, None where it failed. One that shows nothing new is taken back:
    no line of code, none that goes on with what another layer gave (one is skipped), and, where it returns earlier, no output.
    lines: new lines alone count, of runs on other weights, which send tokens to other experts each time."""
    before = len(graph.nodes)
    seen = {line_of(node) for node in graph.nodes if is_full(node)}
    ends = _made_at(graph.nodes, (*graph.outputs, *graph.ends))
    try:
        outputs, read = run()
    except Exception:  # noqa: BLE001  a path that cannot be taken is none
        del graph.nodes[before:]
        return None
    if lines:
        new = any(line_of(n) not in seen for n in graph.nodes[before:] if is_full(n))
    else:
        new = has_new_flow(graph.nodes, before)
    if not new and _made_at(graph.nodes, outputs) <= ends:
        del graph.nodes[before:]
    else:
        graph.ends += outputs
    return read


def _made_at(nodes: list[Node], values: tuple[Value, ...]) -> set[Line]:
    """The lines of code that made these values."""
    return {line_of(node) for node in nodes for value in node.outputs if value in values}


def _starved(nodes: list[Node]) -> bool:
    """Whether some line of code that works on real numbers saw empty tensors only: weights have no say in the others."""
    full = {line_of(node) for node in nodes if is_full(node)}
    return any(line_of(node) not in full and _on_numbers(node) for node in nodes)


def _on_numbers(node: Node) -> bool:
    """Whether it reads or gives floats, not indices and masks alone."""
    return any(v.is_number for v in (*node.inputs, *node.outputs) if v)
