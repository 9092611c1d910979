"""Recorded runs of one network on the same inputs: the first, and others that begin like it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import nn

from surgeon.graph import Graph, Path, Reading, Value
from surgeon.trace.decisions import Decisions, Read, most_ops
from surgeon.trace.inputs import Inputs
from surgeon.trace.memory import Forgotten, Memory
from surgeon.trace.recorder import Recorder, run_recorded

Ran = tuple[tuple[Value, ...], Read]  # the outputs, and the numbers that were read


class Runs:
    """Each run finds the network as the first did: what a forward keeps on its modules for the next one (scales that
    follow the first images, a list that grows) is taken off again."""

    def __init__(self, twin: nn.Module, recorder: Recorder, inputs: Inputs) -> None:
        self.graph = recorder.graph
        self._twin, self._recorder, self._inputs = twin, recorder, inputs
        plain = (m for m in twin.modules() if not isinstance(m, torch.jit.ScriptModule))
        self._before = [_Kept(m.__dict__) for m in plain]
        self._memory = Memory()

    def first(self) -> Read:
        """The run on the inputs as they are, which those that are run again begin like. The numbers that it read."""
        self.graph.outputs, read = self._once((), self._memory)
        self.graph.own = len(self.graph.nodes)
        return read

    def again(self, path: Path) -> Ran:
        """The run in which some numbers are others."""
        before = len(self.graph.nodes)
        try:
            return self._once(path, self._memory)
        except Forgotten:  # the network keeps something of its first run: remember the second
            del self.graph.nodes[before:]
            self._memory = Memory()
            return self._once(path, self._memory)

    def anew(self) -> Ran:
        """A run that is like no other, on whatever weights the network has now."""
        return self._once((), Memory.none())

    def _once(self, path: Path, memory: Memory) -> Ran:
        for kept in self._before:
            kept.put_back()
        inputs = self._inputs.map(torch.clone)  # a forward may write to its inputs
        places = [forced.at for forced in path]
        own = self.graph.own
        most = None if own is None else most_ops(own)
        decisions = Decisions(path, partial(_mark, memory, self.graph, places), most)
        with memory.begun(places[0] if places else None), decisions:
            outputs = run_recorded(self._twin, self._recorder, inputs)
        return outputs, decisions.read


class _Kept:
    """A dict as it was, and the plain lists and dicts in it."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table, self.items = table, dict(table)
        self.inside = [(x, x.copy()) for x in table.values() if isinstance(x, (list, dict, set))]

    def put_back(self) -> None:
        """Make it, and them, hold what they held."""
        for now, before in ((self.table, self.items), *self.inside):
            if _same(now, before):  # one that nobody may change is left alone
                continue
            now.clear()
            now.extend(before) if isinstance(now, list) else now.update(before)


def _same(now: Any, before: Any) -> bool:
    """Whether two lists or two dicts hold the very same objects."""
    each = (dict.items(x) if isinstance(x, dict) else ((v,) for v in x) for x in (now, before))
    ids = [[tuple(map(id, entry)) for entry in entries] for entries in each]
    return ids[0] == ids[1]


def _mark(memory: Memory, graph: Graph, forced: Collection[Reading], place: Reading) -> None:
    """A line is reached for the first time: other runs may begin alike up to here, unless a tensor left torch,
    whose numbers others may read then, or this run is another one from here on."""
    if any(node.target is None for node in graph.nodes):
        memory.stop()
    memory.mark(place)
    if place in forced:
        memory.stop()
