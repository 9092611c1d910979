"""A small ResNet for scikit-learn's 8x8 digits, and its accuracy on images held out from training.

Input: f32[N, 1, 8, 8], pixels divided by 16. Output: f32[N, 10].
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convs and a residual; a 1x1 conv on the shortcut where the width or the size changes."""

    def __init__(self, inp: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inp, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride > 1 or inp != planes:
            conv = nn.Conv2d(inp, planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Three blocks of widths 16, 32, 64 at 8, 4, 2 pixels: f32[N, 1, 8, 8] -> f32[N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = Block(16, 16, 1)
        self.layer2 = Block(16, 32, 2)
        self.layer3 = Block(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def digits_resnet() -> DigitsResNet:
    return DigitsResNet()


@cache
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images and labels, then held-out ones: 1,347 and 450, the same split every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    train, test = train_test_split(range(len(y)), test_size=450, random_state=0, stratify=labels)
    return x[train], y[train], x[test], y[test]


@torch.no_grad()
def accuracy(model: nn.Module, batch: int = 450) -> float:
    """Top-1 on the 450 held-out images, in percent; the model runs in eval mode and gets its mode back."""
    *_, x, y = data()
    like = next(model.parameters(), x)
    was_training = model.training
    if was_training:
        model.eval()
    scores = [model(part.to(like)).float().cpu() for part in x.split(batch)]
    if was_training:
        model.train()
    return 100 * (torch.cat(scores).argmax(1) == y).float().mean().item()
