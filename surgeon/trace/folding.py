"""Weights that are computed from others: made plain on a copy where a cut would change them.

`torch.nn.utils.parametrize` and the older hooks compute a weight at every forward. Where a kept
element of it depends on elements of its own row and column alone (a mask, softplus, weight norm), the parts are cut and it stays a
parametrization. Where it does not (an orthogonal matrix, a spectral norm), the weight is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm

from surgeon.couple import Coupling, couple
from surgeon.distinct import distinct
from surgeon.errors import BadInput
from surgeon.rules import Rule, lookup, parse
from surgeon.trace.adapters import is_merged
from surgeon.trace.copied import copied
from surgeon.trace.hooks import belong
from surgeon.trace.inputs import Inputs
from surgeon.trace.modules import first_paths, modules_of
from surgeon.trace.record import record
from surgeon.trace.states import refuse_unusable
from surgeon.trace.tensors import named_tensors, tensors_of
from surgeon.trace.wrappers import unwrapped

_STATE_HOOKS = (SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook)
_RECOMPUTED = (WeightNorm, BasePruningMethod)  # pre-hooks that compute a weight from what is cut


@dataclass(frozen=True)
class Ready:
    """A model that can be recorded and cut: the caller's own, or a copy with plain weights."""

    model: nn.Module
    notes: tuple[str, ...] = ()


def ready(model: nn.Module) -> Ready:
    """Take wrappers off and fold what must be plain; the caller's model is not touched.

    Raises BadInput where the model's state cannot be used, naming the module.
    """
    model = unwrapped(model)
    refuse_unusable(model)
    paths = first_paths(model)
    folded = [path for module, path in paths.items() if _must_fold(module)]
    merged = [path for module, path in paths.items() if is_merged(module)]
    if not folded and not merged:
        return Ready(model)
    twin = own_copy(model, {}).eval()
    for name in folded:
        _fold(twin.get_submodule(name))
    with torch.no_grad():
        for name in merged:
            twin.get_submodule(name).unmerge()  # type: ignore[operator]
    notes = {
        "parametrized weights made plain in the slim model": folded,
        "adapters that were merged are beside their layers in the slim model": merged,
    }
    return Ready(twin, tuple(f"{what}: {_few(names)}" for what, names in notes.items() if names))


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def own_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy that also takes weights which a hook or a forward computed and left on a module.

    memo: what is to stand in a tensor's place. A parametrized module gets a class of its own: the
    class holds the property, and taking it off the copy would take it off the original.
    """
    for module in modules_of(model):
        for tensor in tensors_of(module):
            if not tensor.is_leaf and id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
    twin = copied(model, memo)
    belong(twin, memo)
    for module in modules_of(twin):
        if is_parametrized(module):
            cls = type(module)
            module.__class__ = type(cls.__name__, cls.__bases__, dict(vars(cls)))  # type: ignore[assignment]
    return twin


def own_twin(model: nn.Module) -> nn.Module:
    """A copy of its own around the very same tensors."""
    return own_copy(model, {id(t): t for m in modules_of(model) for t in tensors_of(m)})


@torch.no_grad()
def recompute(model: nn.Module) -> None:
    """Make the weights that hooks compute anew, from parts that were cut."""
    for module in modules_of(model):
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _RECOMPUTED):
                hook(module, ())


@torch.no_grad()
def read_state(model: nn.Module) -> dict[str, Tensor]:
    """The state as a criterion should see it: a masked or normed weight with its present values."""
    state = named_tensors(model)
    for module, path in first_paths(model).items():
        dot = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                name = dot + hook._tensor_name
                mask = state[f"{name}_mask"]
                state[f"{name}_orig"] = state[f"{name}_orig"] * mask
                state[f"{name}_mask"] = mask.new_zeros(()).expand_as(mask)
            elif isinstance(hook, WeightNorm):
                state[f"{dot}{hook.name}_v"] = hook.compute_weight(module)
        if isinstance(module, ParametrizationList):
            weight = module()
            own = next((n for n, t in module.named_parameters() if t.shape == weight.shape), None)
            state |= {f"{dot}{own}": weight} if own is not None else {}
    return state


def _must_fold(module: nn.Module) -> bool:
    if any(isinstance(h, SpectralNorm) for h in module._forward_pre_hooks.values()):
        return True
    if not is_parametrized(module):
        return False
    lists = module.parametrizations.values()  # type: ignore[union-attr]
    return not all(_carries(one) for one in lists)  # type: ignore[arg-type]


class _Computes(nn.Module):
    """One parametrization as a network: no inputs, the weight is its output."""

    def __init__(self, one: ParametrizationList) -> None:
        super().__init__()
        self.one = one

    def forward(self) -> Tensor:
        return self.one()


def _carries(one: ParametrizationList) -> bool:
    """Whether the weight's rows and columns can go from its parts and leave the others as they are."""
    try:
        graph = record(_Computes(one), Inputs.of(()))
    except BadInput:
        return False
    (weight,) = graph.outputs
    graph.outputs = ()
    coupling = couple(graph)
    free = _free_classes(coupling, weight)
    if coupling.unknown or free is None:
        return False
    return not any(_contracts(coupling, node, free) for node in graph.nodes)


def _free_classes(coupling: Coupling, weight: Any) -> set[int] | None:
    """Classes of the weight's elements along each dim, where each may go by itself."""
    classes, found = coupling.classes, []
    for dim in coupling.dims[weight][:2]:
        for leaf in dim:
            if leaf.ids is None:
                return None
            found.append(classes.label[leaf.ids])
    labels = np.concatenate([np.zeros(0, np.int64), *found])
    if len(distinct(labels)) != len(labels) or (classes.frozen[labels] >= 0).any():
        return None
    norms = "aten._weight_norm_interface"  # a length for each row beside its direction
    for why in set(classes.mixed[labels].tolist()) - {-1}:
        if not coupling.graph.nodes[classes.reasons[why].where].op.startswith(norms):
            return None
    return set(labels.tolist())


def _contracts(coupling: Coupling, node: Any, free: set[int]) -> bool:
    """Whether the node sums over rows or columns of the weight (a spectral norm's products)."""
    rule: Rule | None = lookup(node.op)
    if rule is None or rule.choose is None or "_weight_norm" in node.op:
        return False
    notation = parse(rule.choose(node).text)
    letters = {x for terms in notation.inputs for t in terms for x in t.letters} - notation.kept
    dims = [coupling.bound[node.index].get(x, ()) for x in letters]
    ids = [leaf.ids for dim in dims for leaf in dim if leaf.ids is not None]
    return any(not free.isdisjoint(coupling.classes.label[i].tolist()) for i in ids)


def _fold(module: nn.Module) -> None:
    """Put the computed weights in place of what computes them. For a copy in eval mode."""
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, SpectralNorm):
            learns = getattr(module, f"{hook.name}_orig").requires_grad
            remove_spectral_norm(module, hook.name)
            _forget_state_hooks(module, hook.name)
            getattr(module, hook.name).requires_grad_(learns)
    if is_parametrized(module):
        _plain(module)


def _forget_state_hooks(module: nn.Module, name: str) -> None:
    """Take off what spectral norm does to a state dict, which torch leaves where it has wrapped it."""
    for table in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, held in list(table.items()):
            hook = getattr(held, "hook", held)
            if isinstance(hook, _STATE_HOOKS) and hook.fn.name == name:
                del table[key]


def _plain(module: nn.Module) -> None:
    parameters: dict[str, Any] = {}
    for name, one in module.parametrizations.items():  # type: ignore[union-attr,operator]
        with torch.no_grad():
            weight = one().detach().clone()
        learns = any(p.requires_grad for p in one.parameters())
        if any(True for _ in one.parameters()):
            parameters[name] = nn.Parameter(weight, requires_grad=learns)
        else:
            module._buffers[name] = weight
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    module._parameters = {**parameters, **module._parameters}
