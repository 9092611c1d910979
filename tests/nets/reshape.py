"""Reshapes and linears."""

import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, draw, image, net


@net("stem", "first", "second", inputs=image)
class NhwcRoundTrip(ImageNet):
    """permute to channels-last, an MLP of linears, permute back."""

    def __init__(self):
        super().__init__(24)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 24)

    def body(self, x: Tensor) -> Tensor:
        x = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return x.permute(0, 3, 1, 2)


@net("stem", "conv", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class NhwcFlatten(ImageNet):
    """Channels-last before flatten: a channel is every 16th column of the linear, not a block."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 16)
        self.first = nn.Linear(4 * 4 * 16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.stem(x))))
        return self.head(F.relu(self.first(x.permute(0, 2, 3, 1).flatten(1))))


@net("stem", "conv", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class FlattenLinear(ImageNet):
    """flatten(1): a channel is a block of 16 columns of the linear."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 16)
        self.first = nn.Linear(16 * 4 * 4, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.stem(x))))
        return self.head(F.relu(self.first(x.flatten(1))))


@net("stem", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class LiteralView(ImageNet):
    """x.view(-1, 16 * 4 * 4): after the cut the batch would swallow what is missing."""

    def __init__(self):
        super().__init__(24)
        self.first = nn.Linear(16 * 4 * 4, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).view(-1, 16 * 4 * 4)
        return self.head(F.relu(self.first(x)))


@net("stem", "across", "last", inputs=image)
class EqualSizes(ImageNet):
    """Height, width and channels are all 8: only what is coupled tells them apart."""

    def __init__(self):
        super().__init__(8, stem=8)
        self.rows, self.across = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = conv(8, 8)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.rows(x))
        x = F.relu(self.across(x.transpose(1, 3))).transpose(1, 3)
        return self.last(x)


@net("stem", "mix", inputs=image)
class Unfold(ImageNet):
    """im2col: each channel becomes nine neighbouring rows of a matrix."""

    def __init__(self):
        super().__init__(24)
        self.mix = nn.Conv1d(16 * 9, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1)
        return F.relu(self.mix(columns)).unflatten(2, (8, 8))


@net("stem", "side", inputs=image)
class OuterProduct(ImageNet):
    """Bilinear pooling: entry (i, j) goes when channel i of one conv or j of the other goes."""

    def __init__(self):
        super().__init__(8 * 12, stem=8)
        self.side = conv(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).mean((2, 3)), self.side(x).amax((2, 3))
        return self.head((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1))
