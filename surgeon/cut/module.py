"""Module surgery: the user's own module, copied with smaller tensors and told its new widths."""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

from torch import Tensor, nn

from surgeon.cut.layers import Layer, set_widths
from surgeon.cut.sizes import Sizes
from surgeon.graph import Node
from surgeon.plan import Keep
from surgeon.slices import sliced
from surgeon.trace.adapters import say_widths
from surgeon.trace.called import CalledAs, calls
from surgeon.trace.folding import own_copy, recompute
from surgeon.trace.modules import first_paths
from surgeon.trace.tensors import named_tensors


def cut_module(model: nn.Module, keep: Keep, sizes: Sizes) -> nn.Module:
    """A deep copy of `model` with its state sliced and its layers' attributes set; eval mode.

    Only what stays is copied. The model itself is not touched.
    """
    memo: dict[int, Any] = {}
    places: dict[tuple[int, ...], Tensor] = {}
    for name, tensor in named_tensors(model).items():
        if name in keep and id(tensor) not in memo:
            memo[id(tensor)] = sliced(tensor, keep[name], places)
    slim = own_copy(model, memo).eval()
    recompute(slim)
    nodes: dict[str, list[Node]] = defaultdict(list)
    for node in sizes.coupling.graph.nodes:
        nodes[node.module].append(node)
    for module, path in first_paths(slim).items():
        set_widths(module, Layer(path, tuple(nodes.get(path, ())), sizes))
    for node, call in calls(sizes.coupling.graph):
        _say_sizes(slim, node, call, sizes)
    say_widths(slim)
    return slim


def _say_sizes(slim: nn.Module, node: Node, call: CalledAs, sizes: Sizes) -> None:
    """Set the attributes that a module's own rule says hold sizes, and its layers' own."""
    module = slim.get_submodule(call.path)
    for attribute in call.rule.sizes:
        new = [sizes.factor(node, x) for x in call.rule.factors(attribute)]
        setattr(module, attribute, prod(new))
    for path, layer in module.named_modules(prefix=call.path):
        if layer is not module:
            set_widths(layer, Layer(path, (), sizes))
