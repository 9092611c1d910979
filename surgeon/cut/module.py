"""Module surgery: the user's own module, copied with smaller tensors and told its new widths."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.cut.layers import Layer, set_widths
from surgeon.cut.sizes import Sizes
from surgeon.graph import Node
from surgeon.plan import Keep
from surgeon.trace.record import named_state


def cut_module(model: nn.Module, keep: Keep, sizes: Sizes) -> nn.Module:
    """A deep copy of `model` with its state sliced and its layers' attributes set; eval mode.

    Only what stays is copied. The model itself is not touched.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_state(model).items():
        if name in keep and id(tensor) not in memo:
            memo[id(tensor)] = sliced(tensor, keep[name])
    slim = copy.deepcopy(model, memo)
    nodes: dict[str, list[Node]] = defaultdict(list)
    for node in sizes.coupling.graph.nodes:
        nodes[node.module].append(node)
    for path, module in slim.named_modules():
        if path in nodes:
            set_widths(module, Layer(tuple(nodes[path]), sizes))
    return slim.eval()


def sliced(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    """The kept part of a tensor, as a tensor of its own; a parameter stays a parameter."""
    new = tensor.detach()
    for d, kept in dims.items():
        new = new.index_select(d, torch.tensor(kept, device=new.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
