"""Adds, concats, splits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, image, net


@net("stem", "first", "second", "inner", "outer", inputs=image)
class ResidualAdds(ImageNet):
    """Two residual branches tie stem, second and outer; first and inner are free."""

    def __init__(self):
        super().__init__(16)
        self.first, self.second = conv(16, 24), conv(24, 16)
        self.inner, self.outer = conv(16, 32), conv(32, 16)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(x + self.second(F.relu(self.first(x))))
        return x + self.outer(F.relu(self.inner(x)))


@net("stem", "first", "second", inputs=image)
class InplaceAdd(ImageNet):
    """add_ and += write into a value that already has a name."""

    def __init__(self):
        super().__init__(24)
        self.first, self.second = conv(16, 24), conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.add_(self.second(x))
        y += 1
        return y.relu_()


@net("stem", "first", "second", "last", inputs=image)
class DenseConcat(ImageNet):
    """Every layer reads the concat of all before it."""

    def __init__(self):
        super().__init__(24)
        self.first, self.second = conv(16, 8), conv(24, 8)
        self.norm = nn.BatchNorm2d(32)
        self.last = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.first(x))], 1)
        x = torch.cat([x, F.relu(self.second(x))], 1)
        return self.last(self.norm(x))


@net("stem", "conv", inputs=image)
class ConcatWithSelf(ImageNet):
    """cat([x, x]): one channel stands at two places."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, x], 1)))


@net("stem", "deep", "last", inputs=image)
class UpsampleConcat(ImageNet):
    """A coarse branch is upsampled and meets the fine one in a concat."""

    def __init__(self):
        super().__init__(24)
        self.deep = conv(16, 32)
        self.last = conv(48, 24)

    def body(self, x: Tensor) -> Tensor:
        deep = F.relu(self.deep(F.avg_pool2d(x, 2)))
        deep = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return F.relu(self.last(torch.cat([x, deep], 1)))


@net("stem", "side", inputs=image)
class TokenConcat(ImageNet):
    """cat(dim=2) of flattened maps: positions are joined, channels are equal."""

    def __init__(self):
        super().__init__(16)
        self.side = conv(3, 16, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.stem(x).flatten(2), self.side(x).flatten(2)
        return self.head(F.relu(torch.cat([fine, coarse], 2)).mean(2))


@net("stem", "conv", "last", inputs=image)
class ChunkGate(ImageNet):
    """u, v = chunk(2): channel i is cut with channel i + 16, and no other."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32)
        self.last = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        u, v = self.conv(x).chunk(2, 1)
        return F.relu(self.last(torch.sigmoid(u) * v))


@net("stem", "conv", "last", inputs=image)
class Glu(ImageNet):
    """F.glu: the same gate in one op."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32)
        self.last = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.glu(self.conv(x), dim=1)))


@net("stem", "enter", "first", "second", "leave", inputs=image)
class SplitAndConcat(ImageNet):
    """YOLO's C2f: chunk, a residual block on the last half, all parts concatenated again."""

    def __init__(self):
        super().__init__(24)
        self.enter = conv(16, 32, 1)
        self.first, self.second = conv(16, 16), conv(16, 16)
        self.leave = conv(48, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        parts = list(F.silu(self.enter(x)).chunk(2, 1))
        parts.append(parts[-1] + self.second(F.silu(self.first(parts[-1]))))
        return F.silu(self.leave(torch.cat(parts, 1)))


@net("stem", "left", "right", "inner", "leave", inputs=image)
class CrossStage(ImageNet):
    """CSP: two 1x1 convs split the stage, one half has a residual block, a concat joins them."""

    def __init__(self):
        super().__init__(24)
        self.left, self.right = conv(16, 16, 1), conv(16, 16, 1)
        self.inner = conv(16, 16)
        self.leave = conv(32, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        left = F.silu(self.left(x))
        left = left + F.silu(self.inner(left))
        return F.silu(self.leave(torch.cat([left, self.right(x)], 1)))


@net("stem", "conv", "left", "right", inputs=image)
class LiteralSplit(ImageNet):
    """split([16, 16]) as written numbers, and halves that are free of each other."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32)
        self.left, self.right = conv(16, 24), conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        left, right = F.relu(self.conv(x)).split([16, 16], 1)
        return self.left(left) + self.right(right)


@net("stem", "conv", "last", inputs=image)
class Unbind(ImageNet):
    """unflatten and unbind: a product's outer factor taken apart, position by position."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32)
        self.last = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        u, v = self.conv(x).unflatten(1, (2, -1)).unbind(1)
        return F.relu(self.last(u.tanh() * v))


@net("stem", "left", "right", "last", inputs=image)
class Stack(ImageNet):
    """stack after the channel dim and flatten: channels of two convs interleaved."""

    def __init__(self):
        super().__init__(24)
        self.left, self.right = conv(16, 12), conv(16, 12)
        self.last = conv(24, 24)

    def body(self, x: Tensor) -> Tensor:
        both = torch.stack([self.left(x), self.right(x)], 2).flatten(1, 2)
        return self.last(F.relu(both))


@net("stem", "left", "right", inputs=image)
class WriteThroughViews(ImageNet):
    """A tensor of zeros, its halves written through slices with literal bounds."""

    def __init__(self):
        super().__init__(16)
        self.left, self.right = conv(16, 8), conv(16, 8)

    def body(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :8] = self.left(x)
        y[:, 8:] = self.right(x)
        return F.relu(y)
