"""What no rule can carry: refused by name."""

import torch
from torch import Tensor, nn

from nets.case import ImageNet, conv, image, net


@net("stem", inputs=image)
class SortChannels(ImageNet):
    """A sort over channels forgets which is which: conv stays whole, the stem before it need not."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.conv(x).sort(1).values


@net("stem", inputs=image)
class FourierChannels(ImageNet):
    """A Fourier transform over channels: every output needs them all, at their places."""

    def __init__(self):
        super().__init__(13)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(self.conv(x), dim=1, norm="ortho").abs()


@net("stem", inputs=image)
class ExponentialOfChannels(ImageNet):
    """An op that has no rule: the exponential of a matrix, of which every number is made of all others."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        rows = x.flatten(2)
        mixed = torch.matrix_exp(rows @ rows.transpose(1, 2) / 500)
        return (mixed @ rows).unflatten(2, (8, 8))


@net(inputs=image)
class NothingToCut(nn.Module):
    """One conv, whose channels are the output: exit code 3, not a silent no-op."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
