"""torch-pruning, called as its examples do, and a proof of what it made that asks it nothing.

Its calls: GroupMagnitudeImportance(p=2), ratio 0.5, local, the classifier in `ignored_layers`; where a module has
`qkv` and `num_heads`, its heads are given, and set again afterwards, as its timm example does.

The proof: before pruning, every number of the model is made different, so that the kept indices of each
dimension can be read off the pruned tensors. With them surgeon's oracle masks the original and compares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from surgeon.plan import Plan


def prune(model: nn.Module, inputs: Any, ignored: list[nn.Module]) -> None:
    """Prune in place."""
    import torch_pruning as tp

    heads = {m.qkv: m.num_heads for m in model.modules() if _fused(m)}
    heads |= {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # its own scale stays that of the whole head
    pruner = tp.pruner.BasePruner(
        model,
        _example(inputs),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=0.5,
        ignored_layers=ignored,
        num_heads=heads,
    )
    pruner.step()
    for module in model.modules():
        if not _fused(module):
            continue
        module.num_heads = pruner.num_heads[module.qkv]
        if hasattr(module, "head_dim"):
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.num_heads * module.head_dim


def _fused(module: nn.Module) -> bool:
    return isinstance(getattr(module, "qkv", None), nn.Linear) and hasattr(module, "num_heads")


def _example(inputs: Any) -> Any:
    """Inputs as `example_inputs` takes them: one tensor bare."""
    many = isinstance(inputs, (tuple, list)) and len(inputs) == 1
    return inputs[0] if many else inputs


def tell_apart(model: nn.Module) -> None:
    """Numbers that are all alike (norms, zero biases, layer scales) made different from each other."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_floating_point() or tensor.numel() < 2:
            continue
        count = tensor.numel()
        if count == max(tensor.shape):  # no two alike
            order = torch.randperm(count, generator=generator) / count
            tensor.detach().mul_(0.5).add_(0.5 * order.to(tensor.dtype).view(tensor.shape))
        elif len(tensor.detach().flatten()[:1024].unique()) < min(count, 1024) // 2:
            tensor.detach().add_(0.1 * torch.rand(tensor.shape, generator=generator))


def masked_check(original: nn.Module, slim: nn.Module, inputs: Any) -> dict[str, Any]:
    """Whether the pruned network computes what the original does with the removed channels masked."""
    import surgeon

    before = original.state_dict()
    keep = {}
    for name, tensor in slim.state_dict().items():
        if name in before and before[name].shape != tensor.shape:
            keep[name] = _kept(name, before[name], tensor)
    found = surgeon.check(
        original, slim, Plan(keep), inputs if isinstance(inputs, tuple) else (inputs,)
    )
    return {"proven": True, "error": found.error}


def _kept(name: str, old: Tensor, new: Tensor) -> dict[int, tuple[int, ...]]:
    """For each dimension that shrank, which indices of it are left, found by the values alone."""
    ordered, place = old.flatten().sort()
    alone = torch.ones(len(ordered), dtype=torch.bool)
    same = ordered[1:] == ordered[:-1]
    alone[1:] &= ~same
    alone[:-1] &= ~same
    at = torch.searchsorted(ordered, new.flatten()).clamp_(max=len(ordered) - 1)
    sure = alone[at] & (ordered[at] == new.flatten())
    where = torch.unravel_index(place[at], old.shape)
    keep = {}
    for d in range(old.dim()):
        if old.shape[d] == new.shape[d]:
            continue
        found = (
            torch.where(sure, where[d], -1)
            .reshape(new.shape)
            .movedim(d, 0)
            .reshape(new.shape[d], -1)
        )
        index = found.amax(1)
        if bool((index < 0).any()) or bool(((found >= 0) & (found != index[:, None])).any()):
            raise ValueError(f"what is left of {name} cannot be told from its values")
        keep[d] = tuple(index.tolist())
    return keep
