"""What a runtime has to do for a network, by kind, as a function of what is cut: what latency is predicted from.

Kernels work on channels in blocks, so widths count as padded up to the block: 17 channels cost what 32 do. One
coefficient a kind makes seconds of it (`mix.py`). Where a profile told how long each module takes (`pace.py`), that
is one kind of its own, in place of those that latency is made of otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.align import Widths, kind_of
from surgeon.budget.alive import Alive, renames, short_name
from surgeon.budget.cost import computed, parameters
from surgeon.budget.extents import Extents, product_of
from surgeon.budget.mix import RATES
from surgeon.budget.pace import Paces
from surgeon.couple import Coupling
from surgeon.graph import Graph, Node, Value

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]

# dense: multiply-adds of convolutions and linear layers; depthwise: of convolutions with one input channel a
# group; products: of two activations (attention); moved: elements written by everything else; weights: their
# elements; live: the most elements of activations at once; timed: modules' times, of the latency; fixed: 1.
KINDS: tuple[str, ...] = (
    "dense",
    "depthwise",
    "products",
    "moved",
    "weights",
    "live",
    "timed",
    "fixed",
)
_AT = {kind: k for k, kind in enumerate(KINDS)}

_LAYERS = {"convolution", "linear", "addmm", "mm"}
_PRODUCTS = {"bmm", "baddbmm", "_grouped_mm", "grouped_mm_fallback"}
# runtimes compute these together with the convolution before them
_FUSED = {"native_batch_norm", "_native_batch_norm_legit_no_training", "relu", "hardtanh", "leaky_relu"}  # fmt: skip


@dataclass(frozen=True)
class _Term:
    """A product of extents; those in `padded` are widths of a layer of that kind, padded each by itself."""

    kind: str
    module: str
    plain: list[int]
    padded: tuple[list[int], ...] = ()
    layer: str = ""


class Work:
    """`after(removed)` gives the work by kind, an array in the order of `KINDS`, for the inputs as traced."""

    def __init__(self, coupling: Coupling, widths: Widths) -> None:
        self._widths = widths
        self._classes = coupling.classes.count
        self._extents = Extents(coupling)
        self._terms = list(self._read(coupling.graph))
        self._weights = [self._extents.of(v) for v in parameters(coupling) if v in coupling.dims]
        self._alive = Alive(coupling, self._extents)
        self._paces: Paces | None = None

    def paced(self, paces: Paces) -> Work:
        """The same work, with what a profile told of the time of modules."""
        return self._with(_paces=paces)

    def on(self, widths: Widths) -> Work:
        """The same work, on kernels that make something else of widths."""
        return self._with(_widths=widths)

    def _with(self, **changed: Any) -> Work:
        other = copy(self)
        vars(other).update(changed)
        for name, what in vars(Work).items():
            if isinstance(what, cached_property):
                vars(other).pop(name, None)
        return other

    def after(self, removed: Mask) -> Array:
        """Work once the classes `removed` are gone."""
        sizes = self._extents.after(removed)
        out = np.zeros(len(KINDS))
        out[_AT["fixed"]] = 1.0
        out[_AT["weights"]] = sum(product_of(sizes, refs) for refs in self._weights)
        out[_AT["live"]] = self._alive.most(sizes)
        if self._paces is None:
            for term in self._terms:
                out[_AT[term.kind]] += self._amount(term, sizes)
        else:
            times = self._paces.times(self._modules_left(self._paces.names, sizes))
            out[_AT["timed"]] = self._paces.shares @ times
        return out

    def modules_left(self, names: Sequence[str], removed: Mask) -> Array:
        """Of the work of each of these modules, what is left: [modules]; 1 of one that has none."""
        return self._modules_left(names, self._extents.after(removed))

    @property
    def modules(self) -> frozenset[str]:
        """Paths of the modules that have something to do."""
        return frozenset(m for m, amount in self._each.items() if amount > 0)

    def _modules_left(self, names: Sequence[str], sizes: list[int]) -> Array:
        now, whole = self._by_module(sizes), self._each
        return np.array([now[n] / whole[n] if whole.get(n) else 1.0 for n in names])

    @cached_property
    def _each(self) -> dict[str, float]:
        """Of the network as it is."""
        return self._by_module(self._extents.after(np.zeros(self._classes, bool)))

    def _by_module(self, sizes: list[int]) -> dict[str, float]:
        """What each module has to do, in multiply-adds of a dense layer, by the first guess of what takes how long."""
        found: dict[str, float] = {}
        for term in self._terms:
            amount = RATES["latency"][term.kind] * self._amount(term, sizes)
            found[term.module] = found.get(term.module, 0.0) + amount
        return found

    def _amount(self, term: _Term, sizes: list[int]) -> float:
        n = float(product_of(sizes, term.plain))
        for width in term.padded:
            n *= self._widths.worked(term.layer, product_of(sizes, width))
        return n

    def left(self, removed: Mask) -> Array:
        """Of each kind, what is left relative to the whole; 0 of a kind that there is none of."""
        whole = self.whole
        return np.divide(self.after(removed), whole, out=np.zeros(len(KINDS)), where=whole > 0)

    @cached_property
    def whole(self) -> Array:
        """Work of the network as it is."""
        return self.after(np.zeros(self._classes, bool))

    def _read(self, graph: Graph) -> Iterator[_Term]:
        users = Counter(v for node in graph.forward for v in node.inputs)
        made: dict[Value, Node] = {}
        for node, once in computed(graph):
            made |= {v: node for v in node.outputs if v is not None}
            if not once and (term := self._term(node, made, users)) is not None:
                yield term

    def _term(
        self, node: Node, made: dict[Value, Node], users: Mapping[Value, int]
    ) -> _Term | None:
        name = short_name(node)
        out = node.outputs[0] if node.outputs else None
        if out is None or renames(node):
            return None
        if name in _LAYERS:
            return self._convolution(node) if name == "convolution" else self._linear(node, out)
        of = self._extents.of
        if name in _PRODUCTS:
            a = node.args[1 if name == "baddbmm" else 0]
            return _Term("products", node.module, of(out) + of(a, len(a.shape) - 1))
        if name in _FUSED and self._after_convolution(node, made, users):
            return None
        return _Term("moved", node.module, of(out))

    def _convolution(self, node: Node) -> _Term:
        x, weight, out = node.args[0], node.args[1], node.outputs[0]
        assert out is not None
        of, spatial = self._extents.of, x if node.arg(6) else out
        rest = of(out, 0) + [r for d in range(2, len(out.shape)) for r in of(spatial, d)]
        rest += [r for d in range(2, len(weight.shape)) for r in of(weight, d)]
        groups = node.arg(8, 1)
        if groups > 1 and weight.shape[1] == 1:
            return _Term("depthwise", node.module, rest, (of(weight, 0),), "depthwise")
        widths, layer = (of(weight, 0), of(weight, 1)), kind_of(weight.shape) or "conv"
        return _Term("dense", node.module, rest, widths, layer)

    def _linear(self, node: Node, out: Value) -> _Term:
        x = node.args[1 if "addmm" in node.op else 0]
        last = len(out.shape) - 1
        of = self._extents.of
        rows = [r for d in range(last) for r in of(out, d)]
        widths = of(out, last), of(x, len(x.shape) - 1)
        return _Term("dense", node.module, rows, widths, "linear")

    @staticmethod
    def _after_convolution(node: Node, made: dict[Value, Node], users: Mapping[Value, int]) -> bool:
        """Whether what it takes comes from a convolution alone, through such ops at most."""
        while True:
            value = node.inputs[0]
            before = made.get(value)
            if before is None or users[value] > 1:
                return False
            name = short_name(before)
            if name == "convolution":
                return True
            if name not in _FUSED:
                return False
            node = before
