"""What a network is made of: layers and their cost, groups and what they couple."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from surgeon.grouping import Group
from surgeon.measure.count import Flops, flops, parameters
from surgeon.report.reach import reach
from surgeon.sparse.sparsity import sparsity
from surgeon.trace.program import Program

if TYPE_CHECKING:
    from surgeon.pipeline.traced import Traced


def structure(traced: Traced, model: nn.Module, inputs: Any) -> dict[str, Any]:
    """Plain data for `inspect --json`: layers, groups with all members, totals, unknown ops."""
    counted = flops(model, inputs)
    params = parameters(model)
    found = reach(traced.coupling)
    return {
        "params": params,
        "flops": counted.total,
        "macs": counted.macs,
        "cuttable_share": found.share,
        "reach": found.as_dict(),
        "unknown_ops": list(traced.unknown),
        "layers": list(_layers(model, counted, params)),
        "groups": [_group(group) for group in traced.groups],
        "ties": [sorted(names) for names in traced.coupling.ties],
        "sparsity": sparsity(traced),
        "notes": [*traced.graph.notes, *_uncounted(counted)],
    }


def _layers(model: nn.Module, counted: Flops, params: int) -> Iterator[dict[str, Any]]:
    # a program's ops run beside its modules, so that none of them is known to have a share
    unseen = isinstance(model, Program)
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        count = sum(p.numel() for p in own)
        cost = None if unseen or not name else counted.by_module.get(name)
        largest = max(own, key=lambda p: (p.ndim, p.numel()))
        yield {
            "name": name or "(the model itself)",
            "type": type(module).__name__,
            "shape": list(largest.shape),
            "params": count,
            "params_share": count / max(params, 1),
            "flops": cost,
            "flops_share": None if cost is None else cost / max(counted.total, 1),
        }


def _group(group: Group) -> dict[str, Any]:
    members = group.members
    return {
        "name": group.name,
        "kind": group.kind,
        "size": group.size,
        "exact": group.inexact is None,
        "inexact": group.inexact,
        "cuttable": group.why_not is None,
        "why_not": group.why_not,
        "partners": list(group.partners),
        "layers": list(dict.fromkeys(layer_of(m.state) for m in members)),
        "members": [
            {"state": m.state, "dim": m.dim, "role": m.role, "positions": len(m.at)}
            for m in members
        ],
    }


def layer_of(state: str) -> str:
    """'layer1.0.conv1' of 'layer1.0.conv1.weight'."""
    return state.rpartition(".")[0] or state


def _uncounted(counted: Flops) -> list[str]:
    return [f"FLOPs leave out {', '.join(counted.uncounted)}"] if counted.uncounted else []
