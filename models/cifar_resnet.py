"""The CIFAR ResNets of He et al. 2015 (6n + 2 layers), whose widening shortcuts pad with zeros.

Input: f32[N, 3, 32, 32], normalised with MEAN and STD. Output: f32[N, num_classes].
State names are those of the checkpoints people share: conv1, bn1, layer1..3 (conv1 bn1 conv2 bn2), linear.
"""

import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convs beside a shortcut without weights: f32[N, inp, H, W] -> f32[N, planes, H/s, W/s]."""

    def __init__(self, inp: int, planes: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inp, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = (planes - inp) // 2 if stride > 1 else 0

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.pad:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


def _layer(inp: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inp, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """Widths 16, 32, 64 at 32, 16, 8 pixels, `blocks` basic blocks each."""

    def __init__(self, blocks: int, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _layer(16, 16, blocks, 1)
        self.layer2 = _layer(16, 32, blocks, 2)
        self.layer3 = _layer(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        self.apply(_init)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.shape[3]).flatten(1)
        return self.linear(x)


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight)


def resnet(depth: int, num_classes: int = 10) -> CifarResNet:
    """The ResNet of `depth` layers: 20, 32, 44, 56, 110, ..., 1202.

    Raises ValueError for a depth that is not 6n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ..., 1202), got {depth}")
    return CifarResNet((depth - 2) // 6, num_classes)


def resnet20(num_classes: int = 10) -> CifarResNet:
    return resnet(20, num_classes)


def resnet56(num_classes: int = 10) -> CifarResNet:
    return resnet(56, num_classes)
