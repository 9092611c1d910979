"""Which attributes of torch.nn's own layers say how wide they are, and what sets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from surgeon.cut.sizes import Sizes
from surgeon.graph import Node


@dataclass(frozen=True)
class Layer:
    """A layer being resized: the nodes its forward ran, and the new sizes."""

    path: str
    nodes: tuple[Node, ...]
    sizes: Sizes

    def factor(self, letter: str, default: int) -> int:
        """New size of a factor of the layer's op."""
        for node in self.nodes:
            if letter in self.sizes.coupling.bound.get(node.index, {}):
                return self.sizes.factor(node, letter)
        return default

    def heads(self, count: int) -> tuple[int, int] | None:
        """New number of heads and head_dim: the last product of its activations is weights with values."""
        products = [n for n in self.nodes if n.op in ("aten.bmm.default", "aten.baddbmm.default")]
        if not products:
            return None
        values = products[-1].inputs[-1]
        new = self.sizes.shape(values)
        return count * new[0] // values.shape[0], new[-1]

    def extents(self, count: int) -> tuple[int, ...] | None:
        """New extents of the last `count` dimensions of what it takes the mean of; None where it takes none."""
        means = (node for node in self.nodes if node.op in _MEANS)
        first = next(means, None)
        return None if first is None else self.sizes.shape(first.inputs[0])[-count:]


# of a norm; a class built upon it may turn the tensor round before
_MEANS = ("aten.native_layer_norm.default", "aten._fused_rms_norm.default", "aten.mean.dim")
Setter = Callable[[Any, Layer], None]
_SETTERS: list[tuple[tuple[type, ...], Setter]] = []


def _sets(*types: type) -> Callable[[Setter], Setter]:
    def register(setter: Setter) -> Setter:
        _SETTERS.append((types, setter))
        return setter

    return register


def set_widths(module: nn.Module, layer: Layer) -> None:
    """Make a layer's attributes say what its (already cut) tensors are."""
    for types, setter in _SETTERS:
        if isinstance(module, types):
            setter(module, layer)


@_sets(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv(module: nn.Conv2d, layer: Layer) -> None:
    module.groups = layer.factor("g", module.groups)
    module.out_channels = module.weight.shape[0]
    module.in_channels = module.weight.shape[1] * module.groups
    module.kernel_size = tuple(module.weight.shape[2:])  # type: ignore[assignment]


@_sets(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(module: nn.ConvTranspose2d, layer: Layer) -> None:
    module.groups = layer.factor("g", module.groups)
    module.in_channels = module.weight.shape[0]
    module.out_channels = module.weight.shape[1] * module.groups


@_sets(nn.Linear)
def _linear(module: nn.Linear, layer: Layer) -> None:
    module.out_features, module.in_features = module.weight.shape


@_sets(nn.Bilinear)
def _bilinear(module: nn.Bilinear, layer: Layer) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


@_sets(nn.Embedding, nn.EmbeddingBag)
def _embedding(module: nn.Embedding | nn.EmbeddingBag, layer: Layer) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@_sets(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def _batch_norm(module: nn.BatchNorm2d, layer: Layer) -> None:
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            module.num_features = tensor.shape[0]


_RANK = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}


@_sets(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _instance_norm(module: nn.InstanceNorm2d, layer: Layer) -> None:
    """Without weights or statistics nothing of it is cut, but it still says how wide its input is."""
    rank = next(n for kind, n in _RANK.items() if isinstance(module, kind))
    seen = (v for node in layer.nodes for v in (*node.inputs, *node.outputs) if v is not None)
    x = next((v for v in seen if len(v.shape) == rank), None)
    module.num_features = layer.sizes.shape(x)[1] if x is not None else module.num_features


@_sets(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm, layer: Layer) -> None:
    module.num_groups = layer.factor("g", module.num_groups)
    module.num_channels = module.num_groups * layer.factor(
        "c", module.num_channels // module.num_groups
    )


@_sets(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(module: nn.LayerNorm, layer: Layer) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif (extents := layer.extents(len(module.normalized_shape))) is not None:
        module.normalized_shape = extents


@_sets(nn.PReLU)
def _prelu(module: nn.PReLU, layer: Layer) -> None:
    module.num_parameters = module.weight.shape[0]


@_sets(nn.Unflatten)
def _unflatten(module: nn.Unflatten, layer: Layer) -> None:
    """A size that it is to work out (-1) stays one; names of dimensions take no sizes from here."""
    asked, out = module.unflattened_size, next(iter(layer.nodes[-1:]), None)
    if out is None or out.outputs[0] is None or not all(type(n) is int for n in asked):
        return
    start = module.dim % (len(out.outputs[0].shape) - len(asked) + 1)  # type: ignore[operator]
    new = layer.sizes.shape(out.outputs[0])[start:]
    module.unflattened_size = tuple(n if n == -1 else m for n, m in zip(asked, new, strict=False))  # type: ignore[arg-type]


@_sets(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention, layer: Layer) -> None:
    """Heads and head_dim can follow where they still multiply to the width."""
    new = layer.heads(module.num_heads)
    fused = module.in_proj_weight is not None
    own = module.in_proj_weight if fused else module.q_proj_weight
    if new is None or own is None:
        return
    width = own.shape[1]
    if new[0] * new[1] != width or own.shape[0] != (3 if fused else 1) * width:
        return
    module.embed_dim, (module.num_heads, module.head_dim) = width, new
    module.kdim = width if fused else module.k_proj_weight.shape[1]
    module.vdim = width if fused else module.v_proj_weight.shape[1]


@_sets(nn.Transformer)
def _transformer(module: nn.Transformer, layer: Layer) -> None:
    """Its forward compares d_model with what it is given."""
    first = next((m for m in module.modules() if isinstance(m, nn.TransformerEncoderLayer)), None)
    if first is not None:
        module.d_model = first.linear1.weight.shape[1]


@_sets(nn.RNNBase)
def _rnn(module: nn.RNNBase, layer: Layer) -> None:
    first, recurrent = module._parameters["weight_ih_l0"], module._parameters["weight_hh_l0"]
    assert first is not None and recurrent is not None
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size = recurrent.shape[0] // gates
    module.input_size = first.shape[1]
    if module.proj_size:
        module.proj_size = recurrent.shape[1]


@_sets(nn.RNNCellBase)
def _rnn_cell(module: nn.RNNCellBase, layer: Layer) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]
