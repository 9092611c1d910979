"""One weight, several uses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, image, net, words


@net("stem", "conv", inputs=image)
class CalledTwice(ImageNet):
    """conv(conv(x)): its outputs are its own inputs, and the stem's."""

    def __init__(self):
        super().__init__(16)
        self.conv = conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(self.conv(x))))


@net("stem", "left", "right", "shared", inputs=image)
class SharedOnBranches(ImageNet):
    """One conv reads two branches, which must then agree, and both results are used."""

    def __init__(self):
        super().__init__(48)
        self.left, self.right = conv(16, 16), conv(16, 16)
        self.shared = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        left, right = self.shared(self.left(x).relu()), self.shared(self.right(x).tanh())
        return torch.cat([left, right.abs()], 1)


@net("stem", "first", "second", inputs=image)
class SharedWeight(ImageNet):
    """Two convs hold the same weight and biases of their own."""

    def __init__(self):
        super().__init__(16)
        self.first, self.second = conv(16, 16), conv(16, 16)
        self.second.weight = self.first.weight

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))


@net("embed", "first", inputs=words)
class EmbeddingLinear(nn.Module):
    """Integer inputs; the embedding's columns are channels, its rows are words."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.first, self.head = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(self.embed(x))).mean(1))


@net("embed", "first", "second", inputs=words)
class TiedEmbedding(nn.Module):
    """One parameter embeds the words and scores them: channels go from both, words from neither."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.second(F.gelu(self.first(x))))
