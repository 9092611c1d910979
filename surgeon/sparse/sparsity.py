"""How many of a network's parameters are zero, layer by layer, and how many of them `--dead` can remove."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

from surgeon.graph import Node, Value
from surgeon.planning import keep_of
from surgeon.sparse.dead import Dead, channels_gone
from surgeon.sparse.facts import is_norm, product_of
from surgeon.sparse.plan import dead_of, stays
from surgeon.trace.folding import read_state

if TYPE_CHECKING:
    from surgeon.pipeline.traced import Traced


def sparsity(traced: Traced) -> dict[str, Any]:
    """Plain data: zeros and their share, of the whole and by layer, and what is dead of it."""
    graph = traced.graph
    state = read_state(traced.model)
    names = [
        v.state[0]
        for v in dict.fromkeys(graph.state[n] for n in graph.state if n in graph.parameters)
    ]
    count = {n: state[n].numel() for n in names}
    zeros = {n: _zeros(state[n]) for n in names}
    total = max(sum(count.values()), 1)
    layers: dict[str, list[int]] = {}
    for name in names:
        own = layers.setdefault(name.rpartition(".")[0], [0, 0])
        own[0] += zeros[name]
        own[1] += count[name]
    dead = dead_of(traced) if _may_be_dead(traced, state) else Dead({})
    gone = _parameters_gone(traced, dead)
    return {
        "zeros": sum(zeros.values()),
        "share": sum(zeros.values()) / total,
        "layers": {n: {"zeros": z, "share": z / max(c, 1)} for n, (z, c) in layers.items() if z},
        "dead": {
            "channels": dead.count,
            "params": gone,
            "share": gone / total,
            "groups": {n: len(c) for n, c in dead.channels.items()},
            "kept": stays(dead),
        },
    }


def _zeros(tensor: Tensor) -> int:
    return 0 if tensor.is_meta else int((tensor == 0).sum())


def _may_be_dead(traced: Traced, state: Mapping[str, Tensor]) -> bool:
    """Whether something that multiplies has a zero: nothing is constant or unread without."""
    if any(t.is_meta for t in state.values()):
        return False
    scales = {v.state[0] for node in traced.graph.nodes for v in _factors(node) if v.state}
    return any(_zeros(t) for n, t in state.items() if n in scales or t.dim() > 1)


def _factors(node: Node) -> list[Value]:
    if is_norm(node):
        return [v for v in node.args[1:2] if v is not None]
    product = product_of(node)
    return [] if product is None else [node.args[product.a], node.args[product.b]]


def _parameters_gone(traced: Traced, dead: Dead) -> int:
    """Parameters that leave with the dead channels; a tied one once."""
    graph = traced.graph
    keep = keep_of(traced.coupling, channels_gone(traced.coupling, dead))
    gone = 0
    for value in dict.fromkeys(graph.state[n] for n in graph.parameters):
        kept = keep.get(value.state[0], {})
        gone += prod(value.shape) - prod(
            len(kept[d]) if d in kept else n for d, n in enumerate(value.shape)
        )
    return gone
