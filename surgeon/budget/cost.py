"""FLOPs and parameters as functions of what is cut: planning asks "what if" thousands of times.

The convention is the one of `surgeon.measure.count` (its table): one multiply-add is one FLOP, per
example. A test holds the two together on every network of the zoo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.extents import Extents, product_of
from surgeon.couple import Coupling
from surgeon.graph import Graph, Node, Value

Mask = NDArray[np.bool_]
Term = tuple[int, "list[tuple[Value, int | None]]"]  # coefficient x extents; None: the whole value

_COSTS: dict[str, Callable[[Node], Term | None]] = {}


def _costs(*ops: str) -> Callable[[Callable[[Node], Term | None]], Callable[[Node], Term | None]]:
    def register(function: Callable[[Node], Term | None]) -> Callable[[Node], Term | None]:
        for op in ops:
            _COSTS[op if "." in op else f"aten.{op}"] = function
        return function

    return register


def _out(node: Node) -> Value:
    value = node.outputs[0]
    assert value is not None
    return value


@_costs("convolution")
def _convolution(node: Node) -> Term:
    x, weight, out = node.args[0], node.args[1], _out(node)
    spatial = x if node.arg(6) else out
    extents = [(spatial, d) for d in range(2, len(spatial.shape))]
    return 1, [(out, 0), (weight, None), *extents]


@_costs("torchvision.deform_conv2d")
def _deform_conv(node: Node) -> Term:
    out = _out(node)
    return 1, [(out, 0), (node.args[1], None), (out, 2), (out, 3)]


@_costs("mm", "bmm", "mv", "dot", "_grouped_mm", "transformers.grouped_mm_fallback")
def _product(node: Node) -> Term:
    a = node.args[0]
    return 1, [(_out(node), None), (a, len(a.shape) - 1)]


@_costs("addmm", "baddbmm")
def _add_product(node: Node) -> Term:
    a = node.args[1]
    return 1, [(_out(node), None), (a, len(a.shape) - 1)]


@_costs("_trilinear")
def _trilinear(node: Node) -> Term:
    x = node.args[0]
    return 1, [*((x, d) for d in range(len(x.shape) - 1)), (node.args[1], None)]


@_costs("linear")
def _linear(node: Node) -> Term:
    return 1, [(_out(node), None), (node.args[1], 1)]


@_costs("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(node: Node) -> Term:
    affine = node.args[1] is not None
    uses_batch = node.op.startswith("aten.native_batch_norm") and bool(node.args[5])
    return (4 if uses_batch else 1) + affine, [(node.args[0], None)]


@_costs("native_layer_norm", "native_group_norm")
def _layer_norm(node: Node) -> Term:
    weight = node.args[2] if "layer" in node.op else node.args[1]
    return 4 + (weight is not None), [(node.args[0], None)]


@_costs("mean", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_fused_rms_norm")
def _mean(node: Node) -> Term:
    return 1, [(node.args[0], None)]


_UPSAMPLES = {"nearest1d": 1, "nearest2d": 1, "nearest3d": 1, "linear1d": 2, "bilinear2d": 4,
              "trilinear3d": 8, "bicubic2d": 16}  # fmt: skip


@_costs(*(f"upsample_{name}" for name in _UPSAMPLES))
def _upsample(node: Node) -> Term:
    name = node.op.split(".")[1].removeprefix("upsample_")
    return _UPSAMPLES[name], [(_out(node), None)]


@_costs("grid_sampler_2d", "grid_sampler_3d")
def _grid_sampler(node: Node) -> Term:
    return 4, [(_out(node), None)]


_MACS = {"aten.convolution", "aten.mm", "aten._grouped_mm", "aten.bmm", "aten.mv", "aten.dot", "aten.addmm",
         "aten.baddbmm", "aten.linear", "aten._trilinear", "torchvision.deform_conv2d",
         "transformers.grouped_mm_fallback"}  # fmt: skip


@dataclass(frozen=True)
class Total:
    """FLOPs and MACs for one example; parameters of the whole model."""

    flops: int
    macs: int
    params: int


class Cost:
    """What a network costs after a cut. `total(removed)` takes classes, closed."""

    def __init__(self, coupling: Coupling) -> None:
        self._extents = Extents(coupling)
        self._batch = max(coupling.graph.batch, 1)
        self._nodes: list[tuple[int, bool, list[int]]] = []
        for node, once in computed(coupling.graph):
            packet = node.op.rsplit(".", 1)[0]
            term = _COSTS[packet](node) if packet in _COSTS else None
            if term is not None:
                refs = [r for value, which in term[1] for r in self._extents.of(value, which)]
                # what is computed from weights alone is computed once, not for each example
                coefficient = term[0] * (self._batch if once else 1)
                self._nodes.append((coefficient, packet in _MACS, refs))
        self._params = [
            self._extents.of(value) for value in parameters(coupling) if value in coupling.dims
        ]
        self._unused = sum(
            int(np.prod(v.shape)) for v in parameters(coupling) if v not in coupling.dims
        )

    def total(self, removed: Mask) -> Total:
        """FLOPs, MACs and parameters once the classes `removed` are gone."""
        sizes = self._extents.after(removed)
        flops = macs = 0
        for coefficient, is_mac, refs in self._nodes:
            n = coefficient * product_of(sizes, refs)
            flops += n
            macs += n if is_mac else 0
        params = self._unused + sum(product_of(sizes, refs) for refs in self._params)
        return Total(flops // self._batch, macs // self._batch, params)


def computed(graph: Graph) -> Iterator[tuple[Node, bool]]:
    """The nodes of the eval forward, and whether each computes from weights alone."""
    weights = {v for v in graph.state.values() if v.constant is None}
    for node in graph.forward:
        once = bool(node.inputs) and weights.issuperset(node.inputs)
        if once and not node.op.startswith(("aten.expand.", "aten.repeat.")):
            weights.update(v for v in node.outputs if v is not None)
        yield node, once


def parameters(coupling: Coupling) -> list[Value]:
    """Each parameter once, also where it is tied."""
    names = coupling.graph.parameters
    return list(dict.fromkeys(v for n, v in coupling.graph.state.items() if n in names))
