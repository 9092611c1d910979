"""Convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from nets.case import ImageNet, conv, draw, image, net


@net("stem", "conv", "last", inputs=image)
class ConvChain(ImageNet):
    """No trap: conv, batch norm, relu, conv, pool."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.last = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2))


@net("stem", "conv", inputs=image)
class OddWidths(ImageNet):
    """12 and 30 channels: rounding to 8 must neither skip the one nor gut the other."""

    def __init__(self):
        super().__init__(30, stem=12)
        self.conv = conv(12, 30)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("stem", "conv", inputs=image)
class BiasFree(ImageNet):
    """No bias anywhere, no norm."""

    def __init__(self):
        super().__init__(24)
        self.stem = conv(3, 16, bias=False)
        self.conv = conv(16, 24, bias=False)
        self.head = nn.Linear(24, 5, bias=False)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("stem", "conv", inputs=image)
class BiasNoNorm(ImageNet):
    """exp and cos turn zero into one: a channel set to zero is not a channel removed."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return torch.cos(self.conv(torch.exp(-x)))


@net("stem", "conv", "last", inputs=image)
class GroupConv(ImageNet):
    """groups=4: input and output channels are groups x channels per group."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32, groups=4)
        self.last = conv(32, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(x)))


@net("stem", "depth", "point", inputs=image)
class DepthwiseSeparable(ImageNet):
    """A depthwise conv passes its channels on, a 1x1 conv mixes them."""

    def __init__(self):
        super().__init__(32)
        self.depth = conv(16, 16, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.point = conv(16, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.point(F.relu6(self.norm(self.depth(x)))))


@net("stem", "depth", inputs=image)
class DepthwiseMultiplier(ImageNet):
    """groups=16, 32 filters: every input channel owns two neighbouring outputs."""

    def __init__(self):
        super().__init__(32)
        self.depth = conv(16, 32, groups=16)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.depth(x))


@net("stem", "wide", "last", inputs=image)
class OneChannelConv(ImageNet):
    """groups == out_channels == 1, and groups == in_channels == 1: neither conv is depthwise."""

    def __init__(self):
        super().__init__(24)
        self.gate = conv(16, 1)
        self.wide = conv(1, 8)
        self.last = conv(8 + 16, 24)

    def body(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return F.relu(self.last(torch.cat([self.wide(gate), x * gate], 1)))


@net("stem", "up", "last", inputs=image)
class TransposedConv(ImageNet):
    """A transposed conv keeps its output channels in dim 1 of its weight."""

    def __init__(self):
        super().__init__(16)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2)
        self.norm = nn.BatchNorm2d(24)
        self.last = conv(24, 16)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.relu(self.norm(self.up(x)))))


@net("stem", "up", inputs=image)
class GroupedTransposedConv(ImageNet):
    """groups=4 transposed: weight (groups x inputs, outputs per group)."""

    def __init__(self):
        super().__init__(32)
        self.up = nn.ConvTranspose2d(16, 32, 3, 2, 1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.up(x))


@net("first", "second", inputs=lambda: (draw(2, 4, 32),))
class ConvOneD(nn.Module):
    """Channels and one spatial dim."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(4, 16, 5, stride=2)
        self.second = nn.Conv1d(16, 32, 3, groups=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.first(x)), 2)
        return self.head(F.relu(self.second(x)).mean(2))


@net("first", "second", inputs=lambda: (draw(2, 2, 6, 6, 6),))
class ConvThreeD(nn.Module):
    """Channels and three spatial dims."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(2, 16, 3)
        self.norm = nn.BatchNorm3d(16)
        self.second = nn.Conv3d(16, 24, 3)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3, 4)))


@net("stem", "conv", inputs=image)
class WeightNorm(ImageNet):
    """The conv's weight is computed in forward from a direction and a length per filter."""

    def __init__(self):
        super().__init__(24)
        self.conv = parametrizations.weight_norm(conv(16, 24))

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("first", "up", "second", inputs=lambda: (draw(2, 4, 16),))
class TransposedOneD(nn.Module):
    """A signal halved, doubled again by a transposed conv of two groups, and added to itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 16, 4, 2, 1), nn.Conv1d(4, 24, 3, padding=1)
        self.up = nn.ConvTranspose1d(16, 24, 4, 2, 1, groups=2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.up(F.relu(self.first(x))) + self.second(x)).relu().mean(2))


@net("first", "up", inputs=lambda: (draw(2, 2, 4, 4, 4),))
class TransposedThreeD(nn.Module):
    """Volumes: depthwise conv, then a transposed one."""

    def __init__(self):
        super().__init__()
        self.first, self.depth = nn.Conv3d(2, 16, 3), nn.Conv3d(16, 16, 1, groups=16)
        self.up = nn.ConvTranspose3d(16, 24, 2, 2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.depth(F.relu(self.first(x))))).mean((2, 3, 4)))
