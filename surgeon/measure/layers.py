"""Which module a line of a runtime's profile belongs to: what the ONNX file notes of the node, or whose weights it takes.

Runtimes fuse nodes and name the result after one of them, or after what the last one gives. Of files without such notes
a layer is placed where exactly one module's weights can be meant, and left without a module where none or several can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from surgeon.strip import MODULE

if TYPE_CHECKING:
    from surgeon.measure.facts import Facts
    from surgeon.measure.latency import Comparison

_MOST = 0.5  # of a latency that a profile places: below, modules say too little of it
_BLOCKED = "_nchwc"  # ONNX Runtime's mark of a node that runs on its blocked layout
_SAME = {"Convolution": "Conv", "FusedConv": "Conv", "FusedGemm": "Gemm", "FullyConnected": "Gemm"}
_PRODUCTS = {"Gemm", "MatMul", "FusedMatMul"}  # with its bias, a MatMul becomes a Gemm


def placed(profile: Sequence[Mapping[str, Any]], path: Path) -> tuple[dict[str, Any], ...]:
    """The same lines with "module": the path of a module, or None."""
    graph = _Graph(onnx.load(str(path), load_external_data=False).graph)
    direct = {at: graph.node(line["layer"]) for at, line in enumerate(profile)}
    taken = {id(node) for node in direct.values() if node is not None and graph.module(node)}
    return tuple(
        {**line, "module": graph.behind(direct[at], _kind(line["op"]), taken)}
        for at, line in enumerate(profile)
    )


def with_modules(found: Comparison, files: Mapping[str, Path]) -> Comparison:
    """The same comparison of these files, the lines of its profiles placed where the file is ONNX."""
    facts = dict(found.facts)
    for name, path in files.items():
        profile = facts[name].profile
        if profile is not None and path.suffix == ".onnx":
            facts[name] = replace(facts[name], profile=placed(profile, path))
    return replace(found, facts=facts)


def by_module(facts: Facts) -> dict[str, float]:
    """Seconds of one run by module, of a profile whose lines were placed; nothing where there is none."""
    found: dict[str, float] = {}
    for line in facts.profile or ():
        if module := line.get("module"):
            found[module] = found.get(module, 0.0) + line["s"]
    return found


def shares(found: Comparison, name: str) -> dict[str, float]:
    """Of one network's latency, what each module takes; nothing where its profile tells less than half of it."""
    took = by_module(found.facts[name])
    whole = max(found.timings[name].median_s, sum(took.values()))  # a profiled run takes longer
    shares = {module: s / whole for module, s in took.items()}
    return shares if sum(shares.values()) >= _MOST else {}


def _kind(op: str) -> str:
    """The ONNX op that a runtime's own stands for."""
    return _SAME.get(op, op)


class _Graph:
    """Nodes by their names and by what they give."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        used = Counter(name for node in graph.node for name in node.input)
        # where several nodes take one, the exporter found them to be equal: its name is of the first
        self._weights = {t.name for t in graph.initializer if used[t.name] == 1}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._named = {node.name: node for node in graph.node if node.name}

    def node(self, layer: str) -> onnx.NodeProto | None:
        """The node that a runtime's name speaks of."""
        name = layer.removesuffix(_BLOCKED)
        for said in (name, name.partition("/")[0]):  # 'node_MatMul_70/MatMulAddFusion'
            if found := self._named.get(said) or self._maker.get(said):
                return found
        return None

    def module(self, node: onnx.NodeProto) -> str | None:
        """The module whose weights a node takes, or in whose forward it runs."""
        owners = {name.rpartition(".")[0] for name in node.input if name in self._weights}
        owners.discard("")
        told = next((x.value for x in node.metadata_props if x.key == MODULE), None)
        return owners.pop() if len(owners) == 1 else told

    def behind(self, node: onnx.NodeProto | None, op: str, taken: set[int]) -> str | None:
        """Of the nearest node of type `op` before this one, in what may have been fused, that no other line names."""
        if node is None:
            return None
        direct = self.module(node)
        if direct and (node.op_type == op or {node.op_type, op} <= _PRODUCTS):
            return direct
        level, seen = [node], {id(node)}
        while level:
            before = [self._maker[n] for one in level for n in one.input if n in self._maker]
            level = [one for one in before if id(one) not in seen]
            seen |= {id(one) for one in level}
            of_type = [one for one in level if one.op_type == op and self.module(one)]
            free = [one for one in of_type if id(one) not in taken]
            if of_type:
                return self.module(free[0]) if len(free) == 1 else None
        return direct
