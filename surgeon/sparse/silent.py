"""What is the same on all of the user's examples: a ReLU that is never on, a gate that is always open.

No weight says that it must be so on other inputs: what follows from it holds on these examples alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from surgeon.errors import BadInput
from surgeon.graph import Graph, Value
from surgeon.rules import lookup
from surgeon.score.batches import Sample
from surgeon.sparse.facts import run
from surgeon.trace.inputs import Inputs
from surgeon.widths import widened

# numbers, and where they are the same on all examples
Silent = Mapping[Value, tuple[Tensor, Tensor]]


def silent(
    graph: Graph, state: Mapping[str, Tensor], inputs: Inputs, data: Iterable[Sample]
) -> Silent:
    """Results of one-operand elementwise ops with elements that are the same on every example, in float64.

    inputs: what the graph was recorded with; every example is brought to its batch. Raises BadInput where
    the forward depends on the data, or an example does not fit.
    """
    if graph.own is not None:
        raise BadInput(
            "this forward depends on the data: what is dead on some cannot be followed",
            "--dead alone asks what is dead on any",
        )
    seen: dict[Value, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for sample in data:
            for one in sample.singles():
                tensors = one.inputs.times(inputs.batch or 1).tensors
                _fits(inputs, tensors)
                _look(graph, state, dict(zip(graph.inputs, tensors, strict=True)), seen)
    return {v: found for v, found in seen.items() if bool(found[1].any())}


def _fits(inputs: Inputs, tensors: Iterable[Tensor]) -> None:
    given, asked = [tuple(t.shape) for t in tensors], [tuple(t.shape) for t in inputs.tensors]
    if given != asked:
        raise BadInput(
            f"examples of shape {given} where the network was traced with {asked}",
            "give --input of the data's size",
        )


def _look(
    graph: Graph,
    state: Mapping[str, Tensor],
    inputs: Mapping[Value, Tensor],
    seen: dict[Value, tuple[Tensor, Tensor]],
) -> None:
    """One forward, op by op; what differs from the examples before is no longer the same."""
    known = {v: _wide(t) for v, t in inputs.items()}
    nodes = graph.nodes if graph.training is None else graph.nodes[: graph.training]
    last = {v: at for at, node in enumerate(nodes) for v in node.inputs}

    def of(value: Value) -> Tensor:
        if value not in known:
            if not value.state and value.constant is None:
                raise BadInput(f"{value} was recorded without numbers", "--dead alone asks no data")
            known[value] = _wide(state[value.state[0]] if value.state else value.constant)  # type: ignore[arg-type]
        return known[value]

    for at, node in enumerate(nodes):
        out = run(node, of)
        if out is None:
            raise BadInput(
                f"{node.op} does not run alone, at {node.module or 'the model itself'}",
                "--dead alone asks no data",
            )
        known.update((v, t) for v, t in zip(node.outputs, out, strict=False) if v is not None)
        rule, first = lookup(node.op), node.outputs[0]
        plain = rule is not None and rule.family == "pointwise" and len(node.inputs) == 1
        if plain and first is not None and out[0].is_floating_point():
            numbers, same = seen.get(first) or (out[0].clone(), torch.ones_like(out[0]).bool())
            seen[first] = numbers, same & (numbers == out[0])
        for value in node.inputs:
            if last[value] <= at:
                known.pop(value, None)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", widened(tensor.dtype, torch.float64), copy=True)
