"""Channels that stand where convolutions have space, and space that is folded back into channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, image, net


@net("stem", "second", inputs=image)
class PooledTwice(nn.Module):
    """CoaT's aggregate: two vectors stacked as the channels of a conv of one, whose space is their own
    channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.aggregate = nn.Conv1d(2, 1, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.stem(x))
        second = F.relu(self.second(first))
        both = torch.stack([first.mean((2, 3)), second.mean((2, 3))], 1)
        return self.head(self.aggregate(both).squeeze(1))


@net("stem", "value", inputs=image)
class OutlookAttention(ImageNet):
    """VOLO's: each place weighs its 3x3 neighbours, four heads, and the windows are added up again."""

    def __init__(self):
        super().__init__(24)
        self.value, self.weigh = nn.Conv2d(16, 24, 1), nn.Linear(16, 4 * 81)

    def body(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        windows = F.unfold(self.value(x), 3, padding=1).reshape(n, 4, 6, 9, h * w)
        windows = windows.permute(0, 1, 4, 3, 2)
        weights = self.weigh(x.permute(0, 2, 3, 1)).reshape(n, h * w, 4, 9, 9)
        weights = weights.permute(0, 2, 1, 3, 4).softmax(-1)
        windows = (weights @ windows).permute(0, 1, 4, 3, 2).reshape(n, 24 * 9, h * w)
        return F.fold(windows, (h, w), 3, padding=1)
