"""The graph of a model's forward: on meta tensors, or on real ones where it must see data.

A network whose Python looks at values (detectors) is recorded on real tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from surgeon.errors import FAILS, BadInput
from surgeon.graph import Graph, Node, Value
from surgeon.trace.called import send_calls
from surgeon.trace.flows import joins_more, meets
from surgeon.trace.inputs import Inputs
from surgeon.trace.memoised import unrecalled
from surgeon.trace.mode import forward_mode
from surgeon.trace.paths import left_torch, record_paths, record_turns
from surgeon.trace.recorder import (
    Recorder,
    drawn_alike,
    module_paths,
    prepared,
    run_recorded,
    short,
)
from surgeon.trace.shell import to_meta


@unrecalled
def record(model: nn.Module, inputs: Any, training: bool = False) -> Graph:
    """The graph of one eval-mode forward of `model` on `inputs`; neither is changed.

    Where it leaves parameters unread that a forward in train mode reads (auxiliary heads), or buffers that this one joins to other
    layers (a codebook's moving average), or where `training` asks for it, that one is written down behind it. inputs: as `Inputs.of` takes them. Raises BadInput with the model's own error where its forward
    fails on these inputs.
    """
    inputs = Inputs.of(inputs)
    try:
        return _on_meta(model, inputs.map(to_meta), training)
    except Exception as first:  # noqa: BLE001  whatever forward raises on meta, real tensors decide
        return record_real(model, inputs, f"{type(first).__name__} on meta tensors")


@unrecalled
def record_real(model: nn.Module, inputs: Inputs, why: str) -> Graph:
    """As `record`, on real tensors, along all paths that are found; a note says why."""
    try:
        graph = record_paths(model, inputs)
    except Exception as error:
        raise forward_failed(error, inputs) from error
    graph.notes = (f"recorded on real tensors: {why}", *graph.notes)
    return graph


class Stopped(BadInput):
    """A forward that failed. `ran`: what it did before."""

    def __init__(self, why: BadInput, ran: Graph) -> None:
        super().__init__(why.message, why.hint)
        self.ran = ran


@unrecalled
def record_as(
    model: nn.Module, inputs: Inputs, original: Graph, look: Callable[[Node], None] | None = None
) -> Graph:
    """As `record`, in the way that is known to do for the original, of which this is a cut copy: on tensors of that kind,
    with the training forward where it was written down, and along the paths that numbers led to. look: is shown each node of it
    (not of other paths) as it runs. Raises Stopped where the forward fails."""
    ran = Graph()
    try:
        twin, recorder = prepared(model, on_meta=original.on_meta, original=original)
        recorder.look = look
        ran = recorder.graph
        inputs = inputs.map(to_meta) if original.on_meta else inputs
        if original.turns:
            record_turns(twin, recorder, inputs, original.turns)
        else:
            ran.outputs = run_recorded(twin, recorder, inputs.map(torch.clone))
        if original.training is not None:
            _add_training(twin, recorder, inputs, always=True)
    except Exception as error:
        raise Stopped(forward_failed(error, inputs), ran) from error
    return ran


def forward_failed(error: BaseException, inputs: Inputs) -> BadInput:
    """The model's own error, with the inputs it was given."""
    shapes = ", ".join(
        f"{name}={shape}" if name in inputs.kwargs else shape
        for name, t in zip(inputs.names, inputs.tensors, strict=True)
        for shape in [f"{short(t.dtype)}{list(t.shape)}"]
    )
    text = str(error).strip().split("\n")[0]
    return BadInput(
        f"{FAILS}{type(error).__name__}: {text}\n  with inputs {shapes}",
        "give the inputs that it takes (--input 1,3,224,224; several separated by ';', named input_ids=1,16:int64)",
    )


def _on_meta(model: nn.Module, inputs: Inputs, training: bool) -> Graph:
    twin, recorder = prepared(model, on_meta=True)
    graph = recorder.graph
    again = inputs.map(torch.clone)  # a forward may write to its inputs
    graph.outputs = run_recorded(twin, recorder, inputs)
    graph.notes += left_torch(graph)
    _add_training(twin, recorder, again, always=training)
    return graph


def _unread(graph: Graph, names: frozenset[str]) -> set[str]:
    read = {value for node in graph.nodes for value in node.inputs}
    return {name for name in names if graph.state[name] not in read}


def _add_training(twin: nn.Module, recorder: Recorder, inputs: Inputs, *, always: bool) -> None:
    """Add a forward in train mode, if it runs, and, if it need not be there always, reads what the one in eval mode left."""
    graph = recorder.graph
    layers, beside = _unread(graph, graph.parameters), _unread(graph, graph.beside)
    if not (layers or beside or always):
        return
    start, outputs, own = len(graph.nodes), graph.outputs, graph.inputs
    recorder.begin(inputs)
    graph.inputs = own
    try:
        graph.outputs += _run_training(twin, recorder, inputs)
    except Exception:  # noqa: BLE001  it may want targets, or look at values: eval mode decides then
        del graph.nodes[start:]
        graph.notes += _whole(beside, layers)
        return
    new = graph.nodes[start:]
    read = {name for node in new for value in node.inputs for name in value.state}
    if always or layers & read or meets(new, frozenset(beside)):
        graph.training = start
    else:
        del graph.nodes[start:]
        graph.outputs = outputs


def _whole(beside: set[str], layers: set[str]) -> tuple[str, ...]:
    """A note on buffers of which nobody knows what training makes; those beside unread parameters are told of with these."""
    told = {name.rpartition(".")[0] for name in layers}
    names = sorted(n for n in beside if n.rpartition(".")[0] not in told)
    if not names:
        return ()
    where = f"{', '.join(names[:4])} ({len(names)} tensors)"
    why = "the training forward does not run on these inputs: where it reads them, they may not fit what was cut"
    return (f"buffers that eval mode leaves unread stay whole: {where}; {why}",)


def _run_training(twin: nn.Module, recorder: Recorder, inputs: Inputs) -> tuple[Value, ...]:
    recorder.training = True
    with (
        recorder.forgetting(twin),
        drawn_alike(),
        forward_mode(twin),
        module_paths(twin.train(), recorder),
        recorder,
    ):
        output = inputs.run(twin)
    return recorder.returned(output)


@unrecalled
def trains_otherwise(model: nn.Module, inputs: Inputs, graph: Graph) -> bool:
    """Whether the forward in train mode joins layers that the recorded one does not: a layer that eval mode alone runs."""
    if graph.training is not None or not graph.on_meta:
        return False
    twin, recorder = prepared(model, on_meta=True)
    inputs = inputs.map(to_meta)
    recorder.begin(inputs)
    send_calls(twin, recorder.call)
    try:
        recorder.graph.outputs = _run_training(twin, recorder, inputs)
    except Exception:  # noqa: BLE001  as above
        return False
    return joins_more(graph, recorder.graph)
