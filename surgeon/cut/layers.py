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

    nodes: tuple[Node, ...]
    sizes: Sizes

    def factor(self, letter: str, default: int) -> int:
        """New size of a factor of the layer's op."""
        for node in self.nodes:
            if letter in self.sizes.coupling.bound.get(node.index, {}):
                return self.sizes.factor(node, letter)
        return default

    def extents(self, op: str, count: int) -> tuple[int, ...] | None:
        """New extents of the last `count` dimensions that the layer's op reads."""
        for node in self.nodes:
            if op in node.op:
                return self.sizes.shape(node.args[0])[-count:]
        return None


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


@_sets(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(module: nn.ConvTranspose2d, layer: Layer) -> None:
    module.groups = layer.factor("g", module.groups)
    module.in_channels = module.weight.shape[0]
    module.out_channels = module.weight.shape[1] * module.groups


@_sets(nn.Linear)
def _linear(module: nn.Linear, layer: Layer) -> None:
    module.out_features, module.in_features = module.weight.shape


@_sets(nn.Embedding)
def _embedding(module: nn.Embedding, layer: Layer) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


@_sets(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def _batch_norm(module: nn.BatchNorm2d, layer: Layer) -> None:
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            module.num_features = tensor.shape[0]


@_sets(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def _instance_norm(module: nn.InstanceNorm2d, layer: Layer) -> None:
    if module.weight is not None:
        module.num_features = module.weight.shape[0]


@_sets(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm, layer: Layer) -> None:
    module.num_groups = layer.factor("g", module.num_groups)
    module.num_channels = module.num_groups * layer.factor("c", module.num_channels // module.num_groups)


@_sets(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(module: nn.LayerNorm, layer: Layer) -> None:
    new = layer.extents("_norm", len(module.normalized_shape))
    module.normalized_shape = new or module.normalized_shape


@_sets(nn.PReLU)
def _prelu(module: nn.PReLU, layer: Layer) -> None:
    module.num_parameters = module.weight.shape[0]


@_sets(nn.RNNBase)
def _rnn(module: nn.RNNBase, layer: Layer) -> None:
    recurrent = module.weight_hh_l0
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size = recurrent.shape[0] // gates
    module.input_size = module.weight_ih_l0.shape[1]
    if module.proj_size:
        module.proj_size = recurrent.shape[1]
