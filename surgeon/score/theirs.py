"""Importance objects of torch-pruning as criteria: their own classes compute, on surgeon's groups."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from surgeon.errors import BadInput
from surgeon.grouping import Group, Member
from surgeon.score.registry import Criterion


def is_torch_pruning(thing: Any) -> bool:
    """Whether this is an importance of torch-pruning. The package is not imported: whoever has one has it."""
    theirs = sys.modules.get("torch_pruning.pruner.importance")
    return theirs is not None and isinstance(thing, theirs.Importance)


def from_torch_pruning(importance: Any) -> Criterion:
    """As a criterion `f(group, model) -> scores`; None of groups that it gives no score.

    Each layer that it knows becomes one item of a group as it expects them: the layer, its function that cuts outputs or
    inputs, positions there, and the group's channels. Gradients are read where it looks for them: call backward before.
    """

    def scores(group: Group, model: nn.Module) -> Any:
        theirs = _group(group, model)
        if not len(theirs):
            return None
        try:
            return importance(theirs)
        except Exception as error:
            kind = type(importance).__name__
            raise BadInput(
                f"{kind} of torch-pruning fails on {group.name}: {type(error).__name__}: {error}",
                "importances on gradients want loss.backward() on this model first",
            ) from error

    return scores


def _group(group: Group, model: nn.Module) -> Any:
    from torch_pruning.dependency import Dependency
    from torch_pruning.dependency import Group as Theirs

    out = Theirs()
    for member in group.members:
        found = _layer(member, model)
        if found is None:
            continue
        layer, cuts = found
        node = _Node(layer)
        out.add_dep(Dependency(cuts, cuts, node, node), member.at.tolist())  # type: ignore[arg-type]
        out[len(out) - 1].root_idxs = member.channel.tolist()
    return out


class _Node:
    """What an importance asks of a node of their graph: its layer."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.name = type(module).__name__
        self.type = None


def _layer(member: Member, model: nn.Module) -> tuple[nn.Module, Any] | None:
    """The layer whose weight a member is, and their function for its outputs or inputs; None where they know none."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    path, _, name = member.state.rpartition(".")
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        return None
    pruner = PrunerBox.get(ops.module2type(layer))
    if name != "weight" or pruner is None:
        return None
    cuts = pruner.prune_in_channels if member.role == "takes" else pruner.prune_out_channels
    return layer, cuts
