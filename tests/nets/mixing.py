"""Mixing over channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, conv, image, net, tokens


@net("stem", "conv", "squeeze", "excite", inputs=image)
class SqueezeExcite(ImageNet):
    """The gate's last layer is tied to the channels it gates; its inner one is free."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.squeeze, self.excite = nn.Linear(32, 8), nn.Linear(8, 32)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


@net("stem", inputs=image)
class SpatialAttention(ImageNet):
    """A mean over channels, kept as a dim of one: what stays changes with what goes."""

    def __init__(self):
        super().__init__(16)
        self.gate = conv(1, 1)

    def body(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(1, keepdim=True)).sigmoid()


@net("stem", inputs=image)
class MaxOverChannels(ImageNet):
    """A maximum over channels: masking by zero is not removal where all others are negative."""

    def body(self, x: Tensor) -> Tensor:
        x = -1 - x
        return x * x.amax(1, keepdim=True)


@net("stem", "conv", inputs=image)
class ChannelSoftmax(ImageNet):
    """A softmax over channels: a removed channel gives its share to the others."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(8 * x.softmax(1)))


@net("stem", "conv", inputs=image)
class Normalize(ImageNet):
    """A vector norm over channels: a sum of squares that loses terms."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.normalize(self.conv(x), dim=1)


@net("stem", "conv", inputs=image)
class GroupNorm(ImageNet):
    """Statistics over groups of eight channels: groups go whole, or equally many of each."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.GroupNorm(4, 32)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class OneGroupNorm(ImageNet):
    """GroupNorm(1): statistics over all channels and pixels."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.GroupNorm(1, 32)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class InstanceNorm(ImageNet):
    """Statistics per channel: nothing is mixed, though the kernel folds the batch into channels."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32, bias=False)
        self.norm = nn.InstanceNorm2d(32, affine=True)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class LayerNormLast(ImageNet):
    """Layer norm on channels-last, as in ConvNeXt: mean and variance over what is cut."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.LayerNorm(32)

    def body(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@net("embed", "first", "second", inputs=tokens)
class NormMlpResidual(TokenNet):
    """A transformer's MLP half: norm, two linears, residual."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32)

    def body(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(self.norm(x))))


@net("stem", "conv", inputs=image)
class Whitening(ImageNet):
    """Channels times the inverse of their covariance: what is left is whitened by itself. The identity
    matrix that is added has rows and columns for what is left."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        flat = x.transpose(0, 1).flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        covariance = flat @ flat.T / flat.shape[1] + 0.1 * torch.eye(16, dtype=x.dtype)
        white = torch.linalg.inv(covariance) @ flat
        return F.relu(self.conv(white.unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1)))


@net("stem", inputs=image)
class Decorrelation(ImageNet):
    """Channels turned by the eigenvectors of their products, shrunk and turned back, each picture by itself."""

    def body(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        values, vectors = torch.linalg.eigh(flat @ flat.mT / flat.shape[2])
        shrunk = torch.diag_embed((values + 0.1).rsqrt())
        return (vectors @ shrunk @ vectors.mT @ flat).view_as(x)
