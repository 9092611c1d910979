"""Forwards that look at their data: what runs, how often, and on how many, depends on numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, conv, image, net, tokens


@net("stem", "wide", "narrow", inputs=image)
class RoutedExamples(ImageNet):
    """Each example takes the branch that its own numbers say."""

    def __init__(self):
        super().__init__(24)
        self.wide, self.narrow = conv(16, 24, 3), conv(16, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        order = x.sum((1, 2, 3)).argsort()
        first = int(order[0])
        parts = [F.relu((self.wide if i == first else self.narrow)(e)) for i, e in enumerate(x)]
        return torch.stack(parts)


@net("stem", "step", inputs=image)
class AsOftenAsNeeded(ImageNet):
    """A layer runs as often as a count of the data says."""

    def __init__(self):
        super().__init__()
        self.step = conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        for _ in range(int((x.mean((1, 2, 3)) > 0.1).sum())):
            x = x + 0.3 * F.relu(self.step(x))
        return x


@net("stem", "conv", inputs=image)
class BrightPixels(ImageNet):
    """A mask picks pixels, the channels of what it picks stay channels."""

    def __init__(self):
        super().__init__(24)
        self.conv = nn.Linear(16, 24)

    def body(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        mask = pixels.sum(-1) > pixels.sum(-1).mean()
        found = F.relu(self.conv(pixels[mask]))
        whole = torch.zeros(*mask.shape, found.shape[-1], dtype=x.dtype, device=x.device)
        whole[mask] = found
        return whole.permute(0, 3, 1, 2)


@net("embed", "keys", "value", inputs=tokens)
class BestTokens(TokenNet):
    """The best tokens by a score are gathered, in order."""

    def __init__(self):
        super().__init__(24)
        self.keys, self.score, self.value = nn.Linear(32, 16), nn.Linear(16, 1), nn.Linear(32, 24)

    def body(self, x: Tensor) -> Tensor:
        score = self.score(torch.tanh(self.keys(x))).squeeze(-1)
        best, index = score.topk(4, dim=1)
        x = x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return self.value(x) * best.sigmoid().unsqueeze(-1)
