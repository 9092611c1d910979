"""Movement on channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, image, net


@net("stem", "conv", "last", inputs=image)
class ChannelShuffle(ImageNet):
    """view, transpose, view between two plain convs: channels are permuted."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 16)
        self.last = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(self.last(x))


@net("stem", "enter", "depth", "leave", inputs=image)
class ShuffleUnit(ImageNet):
    """ShuffleNet v2: half of the channels passes by, the other is transformed, then both are shuffled."""

    def __init__(self):
        super().__init__(16)
        self.enter, self.leave = conv(8, 8, 1), conv(8, 8, 1)
        self.depth = conv(8, 8, groups=8)
        self.shuffle = nn.ChannelShuffle(2)

    def unit(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        right = F.relu(self.leave(self.depth(F.relu(self.enter(right)))))
        return self.shuffle(torch.cat([left, right], 1))

    def body(self, x: Tensor) -> Tensor:
        return self.unit(x)


@net("stem", "conv", "last", inputs=image)
class PixelShuffle(ImageNet):
    """32 channels become 8 at four times the pixels: only whole blocks of four can go."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32)
        self.last = conv(8, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.pixel_shuffle(self.conv(x), 2)))


@net("stem", "last", inputs=image)
class PixelUnshuffle(ImageNet):
    """16 channels become 64, each four neighbours that go together."""

    def __init__(self):
        super().__init__(24)
        self.last = conv(64, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.pixel_unshuffle(x, 2)))


@net("stem", "conv1", "conv2", inputs=image)
class ZeroPaddedShortcut(ImageNet):
    """CIFAR ResNet: the strided shortcut is padded by 8 channels of zeros on each side."""

    def __init__(self):
        super().__init__(32)
        self.conv1, self.conv2 = conv(16, 32, stride=2), conv(32, 32)

    def body(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return F.relu(shortcut + self.conv2(F.relu(self.conv1(x))))


@net("stem", "conv", inputs=image)
class Flip(ImageNet):
    """flip(1): the consumer's slices are mirrored."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.flip(1)))


@net("stem", "conv", inputs=image)
class FlipAdd(ImageNet):
    """x + 2 x.flip(1): channel i is cut with channel 15 - i."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x + 2 * x.flip(1)))


@net("stem", "conv", inputs=image)
class Roll(ImageNet):
    """roll(5, 1): a shift counted in channels means another one after the cut."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.roll(5, 1)))


@net("stem", "conv", inputs=image)
class GatherBuffer(ImageNet):
    """index_select by a permutation in a buffer: the buffer's values are channel numbers."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.register_buffer("order", torch.randperm(16))

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.index_select(1, self.order)))


@net("stem", "conv", "whole", inputs=image)
class GatherList(ImageNet):
    """A gather by a list in the code, which takes channel 5 twice and others not at all."""

    def __init__(self):
        super().__init__(24)
        self.conv, self.whole = conv(9, 24), conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        taken = x[:, [5, 0, 5, 12, 3, 9, 14, 7, 1]]
        return F.relu(self.conv(taken) + self.whole(x))


@net("stem", "conv", "whole", inputs=image)
class FixedSlice(ImageNet):
    """x[:, :8]: a literal bound means other channels after the cut."""

    def __init__(self):
        super().__init__(24)
        self.conv, self.whole = conv(8, 24), conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x[:, :8]) + self.whole(x))


@net("stem", "conv", "whole", inputs=image)
class StridedSlice(ImageNet):
    """x[:, ::2]: every other channel, also after the cut, but not the same ones."""

    def __init__(self):
        super().__init__(24)
        self.conv, self.whole = conv(8, 24), conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x[:, ::2]) + self.whole(x))


@net("stem", "conv", inputs=image)
class ReadOneChannel(ImageNet):
    """x[:, 3:4] gates all channels: it must stay and be found again at its new place."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) * x[:, 3:4]


@net("stem", "conv", inputs=image)
class Repeat(ImageNet):
    """repeat along channels: one channel stands at places 16 apart."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x.repeat(1, 2, 1, 1)))


@net("stem", "conv", inputs=image)
class Expand(ImageNet):
    """A pooled vector expanded over the map again, its shape taken from another tensor."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1).expand_as(x)
        return F.relu(self.conv(torch.cat([x, pooled], 1)))
