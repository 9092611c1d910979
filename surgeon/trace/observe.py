"""A Program's graph and the recorded ops behind each of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from surgeon.graph import Graph, Node, Value
from surgeon.trace.inputs import Inputs
from surgeon.trace.mode import forward_mode
from surgeon.trace.program import Program
from surgeon.trace.recorder import Recorder, unvalued_in, unvalued_of
from surgeon.trace.shell import shell, to_meta, valued
from surgeon.trace.tensors import named_state, named_tensors, parameter_names


@dataclass(frozen=True)
class Ran:
    """What one node of a program did: the ops recorded, and the values of its tensors."""

    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Observed:
    """A recorded program. `ran` is by the name of the program's node."""

    graph: Graph
    ran: dict[str, Ran]


def observe(program: Program, inputs: Any, original: Graph | None = None) -> Observed:
    """Record one forward of a program on meta tensors, node by node; the program is not changed. original: of which it is a cut
    copy, as `prepared` takes it."""
    twin = shell(program, to_meta, valued, unvalued_in(program, original)).eval()
    assert isinstance(twin, Program)
    twin.change_literals(_on_meta)  # what the graph makes by itself (an LSTM's first state)
    recorder = Recorder(on_meta=True)
    graph = recorder.graph
    for name, tensor in named_state(twin).items():
        recorder.name_state(name, tensor)
    graph.unvalued = unvalued_of(named_tensors(twin))
    graph.parameters = parameter_names(twin)
    inputs = Inputs.of(inputs).map(to_meta)
    recorder.begin(inputs)
    holders = (n for n in twin.graph.nodes if n.op == "placeholder")
    ran = {n.name: Ran((), (v,)) for n, v in zip(holders, graph.inputs, strict=True)}
    done = 0

    def see(node: torch.fx.Node, value: Any) -> None:
        nonlocal done
        tensors = [t for t in tree_leaves(value) if isinstance(t, Tensor)]
        ops = tuple(graph.nodes[done:])
        for op in ops:
            op.module = str(node.meta.get("path", "")) or node.name
            op.source = node.name
        ran[node.name] = Ran(ops, tuple(recorder.value(t) for t in tensors))
        done = len(graph.nodes)

    with forward_mode(twin), recorder:
        output = twin.run(inputs.args, inputs.kwargs, observe=see)
    graph.outputs = recorder.returned(output)
    return Observed(graph, ran)


def _on_meta(literal: Any) -> Any:
    return torch.device("meta") if isinstance(literal, torch.device) else literal
