"""Parameters and buffers that are in no layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, conv, image, net, tokens


@net("stem", "conv", inputs=image)
class LayerScale(ImageNet):
    """A raw parameter of one number per channel scales a residual branch."""

    def __init__(self):
        super().__init__(16)
        self.conv = conv(16, 16)
        self.gamma = nn.Parameter(torch.full((16, 1, 1), 0.5))

    def body(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.conv(x)


@net("patch", "first", "second", inputs=image)
class ClassToken(nn.Module):
    """ViT's raw parameters: a class token that is concatenated, a position embedding that is added."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, 32))
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 32)
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.second(F.gelu(self.first(x)))
        return self.head(self.mix(x.transpose(1, 2)).transpose(1, 2)[:, 0])


@net("stem", "conv", inputs=image)
class ChannelBuffers(ImageNet):
    """A mean and a deviation per inner channel, kept in buffers."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.register_buffer("mean", torch.rand(1, 16, 1, 1))
        self.register_buffer("std", torch.rand(1, 16, 1, 1) + 0.5)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv((x - self.mean) / self.std))


class FrozenNorm(nn.Module):
    """Batch norm as four buffers and a few pointwise ops."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


@net("stem", "conv", inputs=image)
class FrozenBatchNorm(ImageNet):
    """The detectors' FrozenBatchNorm: nothing of it is a parameter, all of it is per channel."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24, bias=False)
        self.norm = FrozenNorm(24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class ChannelPrelu(ImageNet):
    """PReLU with a slope per channel: a parameter of an activation."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.slope = nn.PReLU(24)

    def body(self, x: Tensor) -> Tensor:
        return self.slope(self.conv(x))


@net("stem", inputs=image)
class EinsumParameter(ImageNet):
    """einsum contracts the channels with a raw matrix."""

    def __init__(self):
        super().__init__(24)
        self.weight = nn.Parameter(torch.randn(16, 24) / 4)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(torch.einsum("nchw,cd->ndhw", x, self.weight))


@net("embed", inputs=tokens)
class MatmulParameter(TokenNet):
    """x @ w with a raw matrix, stored the other way round than a linear's."""

    def __init__(self):
        super().__init__(24)
        self.weight = nn.Parameter(torch.randn(32, 24) / 5)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.weight)


@net("stem", "left", "right", inputs=image)
class WhereMask(ImageNet):
    """where picks between two branches, by a buffer over pixels and by the values themselves."""

    def __init__(self):
        super().__init__(24)
        self.left, self.right = conv(16, 24), conv(16, 24)
        self.register_buffer("mask", torch.rand(8, 8) > 0.5)

    def body(self, x: Tensor) -> Tensor:
        x = torch.where(self.mask, self.left(x), self.right(x))
        return torch.where(x > 0, x, 0.1 * x)


@net("stem", "conv", inputs=image)
class FrozenWeights(ImageNet):
    """requires_grad=False everywhere: no autograd graph to walk."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.requires_grad_(False)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("embed", "query", "key", inputs=tokens)
class SizeAsNumber(TokenNet):
    """A scale made of the head's size as a tensor: the cut network must not make a smaller one of it."""

    def __init__(self):
        super().__init__(10)
        self.query, self.key = nn.Linear(32, 24), nn.Linear(32, 24)

    def body(self, x: Tensor) -> Tensor:
        q, k = self.query(x), self.key(x)
        scale = torch.tensor(q.size(-1), dtype=torch.float32).sqrt()
        return (q @ k.transpose(1, 2)) / scale
