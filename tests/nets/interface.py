"""Inputs and outputs."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, draw, image, net


@net("stem", "side", "trunk", inputs=lambda: (draw(2, 3, 8, 8), draw(2, 6, seed=1)))
class TwoInTwoOut(nn.Module):
    """An image and a vector in, a tuple of two out; both outputs keep their width."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = conv(3, 16), nn.Linear(6, 16)
        self.trunk = nn.Linear(32, 24)
        self.first, self.second = nn.Linear(24, 10), nn.Linear(24, 8)

    def forward(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        seen, told = F.relu(self.stem(x)).mean((2, 3)), F.relu(self.side(vector))
        both = F.relu(self.trunk(torch.cat([seen, told], 1)))
        return self.first(both), self.second(both)


@net("stem", inputs=image)
class DictOutput(ImageNet):
    """A dict of logits and of the features before them: the features are an output and stay whole."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = F.relu(self.conv(F.relu(self.stem(x))))
        return {"logits": self.head(features.mean((2, 3))), "features": features}


@dataclass
class Detection:
    """What DataclassOutput returns."""

    scores: Tensor
    boxes: Tensor


@net("stem", "conv", inputs=image)
class DataclassOutput(ImageNet):
    """A dataclass that no tree library has heard of."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.box = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Detection:
        x = F.relu(self.conv(F.relu(self.stem(x)))).mean((2, 3))
        return Detection(scores=self.head(x), boxes=self.box(x))


@net("stem", "conv", inputs=image)
class KeywordDefaults(ImageNet):
    """An optional tensor and a keyword-only flag, both left at their defaults."""

    def __init__(self):
        super().__init__(16)
        self.conv = conv(16, 16)

    def forward(self, x: Tensor, scale: Tensor | None = None, *, residual: bool = True) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.conv(x if scale is None else x * scale))
        return self.head((x + y if residual else y).mean((2, 3)))
