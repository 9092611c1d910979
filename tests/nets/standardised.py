"""Weights that are standardised before they convolve: statistics over each filter's input channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, image, net


class StandardConv(nn.Conv2d):
    """A convolution whose filters are brought to mean zero and variance one by a batch norm."""

    def __init__(self, channels: int, filters: int):
        super().__init__(channels, filters, 3, padding=1)
        self.gain = nn.Parameter(torch.full((filters, 1, 1, 1), 0.4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(weight, None, None, self.gain.flatten(), training=True)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


@net("stem", "first", "second", inputs=image)
class StandardisedWeights(ImageNet):
    """Two such convolutions in a residual branch: what one loses of its filters, the next standardises without."""

    def __init__(self):
        super().__init__(16)
        self.first, self.second = StandardConv(16, 12), StandardConv(12, 16)

    def body(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))
