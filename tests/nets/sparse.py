"""Networks with zeros that others made: rows, columns, scales and masks, and the constants behind them."""

import torch
from torch import Tensor, nn

from nets.case import ImageNet, build, conv, image, net


@net("stem", inputs=image)
class ZeroedChain(ImageNet):
    """conv, batch norm, relu, conv: the first layer's channels 0-2 are off, above and at zero."""

    padding = 1

    def __init__(self):
        super().__init__(6, 8)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 6, 3, padding=self.padding, bias=False)
        self.last = nn.BatchNorm2d(6)

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.conv(self.norm(x).relu())).relu()


class ValidChain(ZeroedChain):
    """The same without padding: a constant is the same at every position."""

    padding = 0


class Residual(ImageNet):
    """Two layers write to the stream that the head reads."""

    def __init__(self):
        super().__init__(16, 16)
        self.conv = conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        return (x + self.conv(x)).relu()


@torch.no_grad()
def chain(kind: type[ZeroedChain]) -> nn.Module:
    """Scales of channels 0-2 are zero: their shifts are -1, 0 and 1; output 4 of the last conv is zero."""
    model = build(kind)
    model.norm.weight[:3] = 0
    model.norm.bias[:3] = torch.tensor([-1.0, 0.0, 1.0])
    model.conv.weight[4] = 0
    return model


@torch.no_grad()
def mlp() -> nn.Module:
    """Rows 1 and 3 of the first layer are zero, row 2 of the second; column 5 of the third is not read."""
    model = build(
        lambda: nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )
    )
    for layer in (model[0], model[2]):
        layer.bias.abs_()  # what a zero row emits passes the relu
    model[0].weight[[1, 3]] = 0
    model[2].weight[2] = 0
    model[4].weight[:, 5] = 0
    return model
