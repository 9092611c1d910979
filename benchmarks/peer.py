"""torch-pruning, called as its examples do, and a proof of what it made that asks it nothing.

Its calls: GroupMagnitudeImportance(p=2), ratio 0.5, local, the classifier in `ignored_layers`. Heads are given, and
set again afterwards: of modules with `qkv` and `num_heads` as its timm example does, of separate projections as its
examples for BERT and for language models do. `families.classifier` names what is ignored in detectors.

The proof: before pruning, every number of the model is made different, so that the kept indices of each
dimension can be read off the pruned tensors. With them surgeon's oracle masks the original and compares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from surgeon.plan import Plan

# layers of an attention with separate projections, by the names that its examples for Hugging Face look for
_ENCODER = ("query", "key", "value")  # head_dim is cut
_DECODER = ("q_proj", "k_proj", "v_proj")  # heads are cut, so that rotary embeddings stay


class Pruned:
    """One run of torch-pruning, in place: `traced` once its graph is built."""

    def __init__(self, model: nn.Module, inputs: Any, ignored: list[nn.Module]) -> None:
        self.model, self.inputs, self.ignored = model, inputs, ignored
        self.traced = False

    def run(self) -> None:
        """Build its graph, prune, and set the attributes of attentions as its examples do."""
        import torch_pruning as tp

        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # its own scale stays that of the whole head
        heads, decoder = _heads(self.model)
        whole = {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}
        pruner = tp.pruner.BasePruner(
            self.model,
            _example(self.inputs),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=False,
            pruning_ratio=0.5,
            ignored_layers=self.ignored,
            num_heads=heads,
            **(whole if decoder else {}),
        )
        self.traced = True
        pruner.step()
        for module in self.model.modules():
            _set_attention(module, pruner.num_heads)


def _heads(model: nn.Module) -> tuple[dict[nn.Module, int], bool]:
    """How many heads each projection makes, and whether whole heads are to be cut."""
    heads: dict[nn.Module, int] = {}
    decoder = False
    for m in model.modules():
        if isinstance(m, nn.MultiheadAttention):
            heads[m] = m.num_heads
        elif _fused(m):
            heads[m.qkv] = m.num_heads
        elif _separate(m, _ENCODER) and hasattr(m, "num_attention_heads"):
            heads |= {getattr(m, name): m.num_attention_heads for name in _ENCODER}
        elif _separate(m, _DECODER) and hasattr(m, "head_dim"):
            heads |= {p: p.out_features // m.head_dim for p in _projections(m, _DECODER)}
            decoder = True
    return heads, decoder


def _set_attention(module: nn.Module, heads: dict[nn.Module, int]) -> None:
    """The numbers that an attention's forward reads, from its projections as they are now."""
    if _fused(module):
        module.num_heads = heads[module.qkv]
        if hasattr(module, "head_dim"):
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
        if hasattr(module, "attn_dim"):
            module.attn_dim = module.num_heads * module.head_dim
    elif _separate(module, _ENCODER) and hasattr(module, "num_attention_heads"):
        module.all_head_size = module.query.out_features
        module.attention_head_size = module.query.out_features // module.num_attention_heads
    elif _separate(module, _DECODER) and hasattr(module, "head_dim"):
        queries, keys, _ = (
            p.out_features // module.head_dim for p in _projections(module, _DECODER)
        )
        module.num_heads, module.num_key_value_heads = queries, keys
        module.num_key_value_groups = queries // max(keys, 1)


def _separate(module: nn.Module, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in names)


def _projections(module: nn.Module, names: tuple[str, ...]) -> list[nn.Linear]:
    return [getattr(module, name) for name in names]


def _fused(module: nn.Module) -> bool:
    return isinstance(getattr(module, "qkv", None), nn.Linear) and hasattr(module, "num_heads")


def _example(inputs: Any) -> Any:
    """Inputs as `example_inputs` takes them: one tensor bare."""
    many = isinstance(inputs, (tuple, list)) and len(inputs) == 1
    return inputs[0] if many else inputs


def ready(model: nn.Module) -> None:
    """A model as it is given to torch-pruning and to the check: numbers told apart, no key-value cache."""
    tell_apart(model)
    if hasattr(getattr(model, "config", None), "use_cache"):
        model.config.use_cache = False  # its graph starts at tensors, and a cache is none


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
    found = surgeon.check(original, slim, Plan(keep), inputs)
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
