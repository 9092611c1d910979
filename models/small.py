"""Networks written for this project that the README, the tests and the benchmarks cut; none is trained."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp() -> nn.Sequential:
    """LeNet-300-100: f32[N, 784] -> f32[N, 10]."""
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


class TwoConv(nn.Module):
    """The CIFAR net of many a first script, its sizes written into forward: f32[N, 3, 32, 32] -> f32[N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(64 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 64 * 5 * 5)
        return self.fc2(F.relu(self.fc1(x)))


def two_conv() -> TwoConv:
    """f32[N, 3, 32, 32] -> f32[N, 10]."""
    return TwoConv()


def _double(inp: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Three levels down by max pooling, three up by transposed convs, a concat at each: f32[N, 3, H, W] -> f32[N, 2, H, W].

    H and W are multiples of 8.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        inputs = [3, *widths]
        self.down = nn.ModuleList(_double(i, o) for i, o in zip(inputs, widths, strict=False))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.merge = nn.ModuleList(_double(i, o) for i, o in pairs)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down[:-1]:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def unet() -> UNet:
    """f32[N, 3, H, W] -> f32[N, 2, H, W], H and W multiples of 8."""
    return UNet()


def conv1d_net() -> nn.Sequential:
    """A keyword spotter: f32[N, 4, T] -> f32[N, 6], T at least 32."""
    return nn.Sequential(
        nn.Conv1d(4, 32, 7, stride=2, padding=3),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.AvgPool1d(2),
        nn.Conv1d(64, 128, 3, padding=1),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(128, 6),
    )


class TwoInTwoOut(nn.Module):
    """An image and a vector meet in one trunk and leave as {"class": f32[N, 10], "box": f32[N, 4]}.

    Inputs: f32[N, 3, 32, 32] and f32[N, 16].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(24, 48, 3, stride=2, padding=1)
        self.vector = nn.Linear(16, 32)
        self.trunk = nn.Linear(48 + 32, 64)
        self.classes = nn.Linear(64, 10)
        self.box = nn.Linear(64, 4)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        seen = F.relu(self.conv2(F.relu(self.conv1(image)))).mean((2, 3))
        told = F.relu(self.vector(vector))
        both = F.relu(self.trunk(torch.cat([seen, told], 1)))
        return {"class": self.classes(both), "box": self.box(both).sigmoid()}


def two_in_two_out() -> TwoInTwoOut:
    """f32[N, 3, 32, 32], f32[N, 16] -> {"class": f32[N, 10], "box": f32[N, 4]}."""
    return TwoInTwoOut()


class DenseLayer(nn.Module):
    """Norm, relu, conv, and the input kept beside the result: f32[N, C, H, W] -> f32[N, C + growth, H, W]."""

    def __init__(self, inp: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inp)
        self.conv = nn.Conv2d(inp, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def _transition(inp: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(inp), nn.ReLU(), nn.Conv2d(inp, out, 1, bias=False), nn.AvgPool2d(2)
    )


def densenet(layers: int = 6, blocks: int = 3, growth: int = 12) -> nn.Sequential:
    """A DenseNet of `blocks` dense blocks of `layers` layers each: f32[N, 3, 32, 32] -> f32[N, 10].

    Depth grows by `layers` at constant block count, or by `blocks` at bounded width. A halving conv
    stands between two blocks; the first three of them also halve the image.
    """
    width = 2 * growth
    parts: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for block in range(blocks):
        for _ in range(layers):
            parts.append(DenseLayer(width, growth))
            width += growth
        if block < blocks - 1:
            parts.append(_transition(width, width // 2)[: 4 if block < 3 else 3])
            width //= 2
    parts += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


Shapes = tuple[tuple[int, ...], ...]
NETS: dict[str, tuple[Callable[[], nn.Module], Shapes]] = {
    "mlp": (mlp, ((1, 784),)),
    "two_conv": (two_conv, ((1, 3, 32, 32),)),
    "unet": (unet, ((1, 3, 64, 64),)),
    "conv1d_net": (conv1d_net, ((1, 4, 256),)),
    "two_in_two_out": (two_in_two_out, ((1, 3, 32, 32), (1, 16))),
    "densenet": (densenet, ((1, 3, 32, 32),)),
}
