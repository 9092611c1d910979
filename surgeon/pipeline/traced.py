"""A model traced and coupled: what is known before anything is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from surgeon.couple import Coupling, couple
from surgeon.errors import BadInput, CheckFailed
from surgeon.graph import Graph
from surgeon.pipeline.own import Own
from surgeon.plan import Plan
from surgeon.planning import removed_by
from surgeon.trace.folding import ready
from surgeon.trace.inputs import Inputs
from surgeon.trace.observe import observe
from surgeon.trace.program import Program
from surgeon.trace.rebound import unbound
from surgeon.trace.record import record, record_real, trains_otherwise
from surgeon.trace.remembered import forgotten


@dataclass(frozen=True)
class Traced:
    """A traced model: `surgeon.trace(model, inputs)`. Look before you cut."""

    graph: Graph
    coupling: Coupling
    inputs: Inputs  # what it was traced with: a batch of one is doubled
    model: (
        nn.Module
    )  # what was traced: the caller's own, or a copy with plain weights that remembers nothing
    notes: tuple[str, ...] = ()
    refusal: BadInput | None = None  # why there is no program of it, once that was tried
    own: Own | None = None  # what may be left whole, so that it needs no program

    @property
    def groups(self) -> Any:
        """Every group of channels that must be cut together, in order of first use."""
        return self.coupling.groups

    @property
    def unknown(self) -> tuple[str, ...]:
        """Ops that have no channel rule: what reaches them stays."""
        return tuple(sorted({node.op for node in self.coupling.unknown}))


def trace(model: nn.Module, example_inputs: Any) -> Traced:
    """Record one forward of `model` and couple its channels; nothing is changed.

    example_inputs: a tensor, a tuple of what `forward` takes, a mapping of its keywords, or `Inputs`
    for both; batch 2 or more is best, since an extent of one says nothing about what it is. Raises
    BadInput where forward fails.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"a model is an nn.Module, not {type(model).__name__}",
            "surgeon.files.open_model opens files",
        )
    usable, given = ready(model), Inputs.of(example_inputs)
    model = forgotten(usable.model, given)
    inputs = given.two_at_least()
    try:
        graph = _graph(model, inputs)
    except BadInput:
        if inputs is given:
            raise
        inputs, graph = given, _graph(model, given)  # a network made for one example at a time
    notes = usable.notes + unbound(model) + graph.notes
    return Traced(graph, couple(graph), inputs, model, notes)


def _graph(model: nn.Module, inputs: Inputs) -> Graph:
    return observe(model, inputs).graph if isinstance(model, Program) else record(model, inputs)


def with_sides(traced: Traced) -> Traced | None:
    """The same with the other sides of what whole numbers and truths among its inputs decide (`if mask.all()`), for
    which it is recorded on real tensors; None where it is already, or there are none."""
    if not traced.graph.on_meta or isinstance(traced.model, Program):
        return None
    graph = record_real(traced.model, traced.inputs, "its inputs decide what runs")
    if not graph.turns:
        return None
    notes = tuple(dict.fromkeys(traced.notes + graph.notes))
    return replace(traced, graph=graph, coupling=couple(graph), notes=notes)


class TrainsOtherwise(CheckFailed):
    """The cut network is wrong in train mode; `wider` is the trace that has it."""

    def __init__(self, why: str, wider: Traced) -> None:
        said = "the cut network is wrong in train mode, which leads other layers to each other than eval mode"
        super().__init__(f"{said}: {why}", "make the plan anew: shrink looks at both modes")
        self.wider = wider


def refuse_wrong_training(traced: Traced, plan: Plan) -> None:
    """Raise TrainsOtherwise where the forward in train mode leads layers to each other that the plan cuts apart. Of a forward
    on real tensors, and of a program, nobody looks."""
    if isinstance(traced.model, Program):
        return
    if not trains_otherwise(traced.model, traced.inputs, traced.graph):
        return
    graph = record(traced.model, traced.inputs, training=True)
    if graph.training is None:
        return
    wider = replace(traced, graph=graph, coupling=couple(graph))
    try:
        removed_by(wider.coupling, plan)
    except BadInput as error:
        raise TrainsOtherwise(error.message, wider) from error
