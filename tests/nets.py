"""Small networks, one per hard case: each holds one trap that a careless tool falls into.

`NETS` maps a name to its `Case`. Nearly all of them are a conv `stem` (or a linear `embed`), the trap in
`body`, and a `head` over the pooled result, so that what precedes and follows the trap can be cut too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Case:
    """One net: `build()` gives it in eval mode, the same each time, and `inputs()` its arguments.

    `cuts` are the modules whose output channels a correct tool can cut: rows of a linear or a conv,
    columns of an embedding, the hidden size of an LSTM or a GRU, heads or head_dim of attention.
    Nothing is said of modules left out.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    cuts: tuple[str, ...]


NETS: dict[str, Case] = {}


def net(*cuts: str, inputs: Callable[[], tuple[Tensor, ...]]):
    """Register the decorated class as a case, under its own name in snake_case."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        name = re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()
        if name in NETS:
            raise ValueError(f"two nets are named {name}")
        NETS[name] = Case(partial(build, cls), inputs, cuts)
        return cls

    return register


def build(cls: type[nn.Module]) -> nn.Module:
    """An instance with the same weights each time, none of them at a default that hides errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(cls()).eval()


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Shake constant float tensors by up to 0.3 (norms, zero biases, layer scales) and double matrices.

    Default weights shrink their input at every layer, until little but the biases is left to compare.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter *= 2
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
            tensor += torch.empty_like(tensor).uniform_(-0.3, 0.3)
    return model


def tensors(output: object) -> list[Tensor]:
    """Every tensor of an output: one, or a tuple, list, dict or dataclass of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if not isinstance(output, (tuple, list)):
        output = list(vars(output).values())
    return [tensor for part in output for tensor in tensors(part)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image() -> tuple[Tensor]:
    return (draw(2, 3, 8, 8),)


def tokens() -> tuple[Tensor]:
    return (draw(2, 10, 12),)


def words() -> tuple[Tensor]:
    return (torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0)),)


def conv(inp: int, out: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inp, out, kernel, padding=kernel // 2, **options)


class ImageNet(nn.Module):
    """f32[N, 3, 8, 8] -> stem of 16 channels -> body, `width` channels -> pool -> head, 5 classes."""

    def __init__(self, width: int = 16, stem: int = 16):
        super().__init__()
        self.stem = conv(3, stem)
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(F.relu(self.stem(x))).mean((2, 3)))


class TokenNet(nn.Module):
    """f32[N, 10, 12] -> embed of 32 channels -> body, `width` channels -> mean -> head, 5 classes."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


# ---- convolutions -----------------------------------------------------------------------------


@net("stem", "conv", "last", inputs=image)
class ConvChain(ImageNet):
    """No trap: conv, batch norm, relu, conv, pool."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.last = conv(32, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2))


@net("stem", "conv", inputs=image)
class OddWidths(ImageNet):
    """12 and 30 channels: rounding to 8 must neither skip the one nor gut the other."""

    def __init__(self):
        super().__init__(30, stem=12)
        self.conv = conv(12, 30)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("stem", "conv", inputs=image)
class BiasFree(ImageNet):
    """No bias anywhere, no norm."""

    def __init__(self):
        super().__init__(24)
        self.stem = conv(3, 16, bias=False)
        self.conv = conv(16, 24, bias=False)
        self.head = nn.Linear(24, 5, bias=False)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


@net("stem", "conv", inputs=image)
class BiasNoNorm(ImageNet):
    """exp and cos turn zero into one: a channel set to zero is not a channel removed."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return torch.cos(self.conv(torch.exp(-x)))


@net("stem", "conv", "last", inputs=image)
class GroupConv(ImageNet):
    """groups=4: input and output channels are groups x channels per group."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 32, groups=4)
        self.last = conv(32, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.conv(x)))


@net("stem", "depth", "point", inputs=image)
class DepthwiseSeparable(ImageNet):
    """A depthwise conv passes its channels on, a 1x1 conv mixes them."""

    def __init__(self):
        super().__init__(32)
        self.depth = conv(16, 16, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.point = conv(16, 32, 1)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.point(F.relu6(self.norm(self.depth(x)))))


@net("stem", "depth", inputs=image)
class DepthwiseMultiplier(ImageNet):
    """groups=16, 32 filters: every input channel owns two neighbouring outputs."""

    def __init__(self):
        super().__init__(32)
        self.depth = conv(16, 32, groups=16)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.depth(x))


@net("stem", "wide", "last", inputs=image)
class OneChannelConv(ImageNet):
    """groups == out_channels == 1, and groups == in_channels == 1: neither conv is depthwise."""

    def __init__(self):
        super().__init__(24)
        self.gate = conv(16, 1)
        self.wide = conv(1, 8)
        self.last = conv(8 + 16, 24)

    def body(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return F.relu(self.last(torch.cat([self.wide(gate), x * gate], 1)))


@net("stem", "up", "last", inputs=image)
class TransposedConv(ImageNet):
    """A transposed conv keeps its output channels in dim 1 of its weight."""

    def __init__(self):
        super().__init__(16)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2)
        self.norm = nn.BatchNorm2d(24)
        self.last = conv(24, 16)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.last(F.relu(self.norm(self.up(x)))))


@net("stem", "up", inputs=image)
class GroupedTransposedConv(ImageNet):
    """groups=4 transposed: weight (groups x inputs, outputs per group)."""

    def __init__(self):
        super().__init__(32)
        self.up = nn.ConvTranspose2d(16, 32, 3, 2, 1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.up(x))


@net("first", "second", inputs=lambda: (draw(2, 4, 32),))
class ConvOneD(nn.Module):
    """Channels and one spatial dim."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(4, 16, 5, stride=2)
        self.second = nn.Conv1d(16, 32, 3, groups=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.first(x)), 2)
        return self.head(F.relu(self.second(x)).mean(2))


@net("first", "second", inputs=lambda: (draw(2, 2, 6, 6, 6),))
class ConvThreeD(nn.Module):
    """Channels and three spatial dims."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(2, 16, 3)
        self.norm = nn.BatchNorm3d(16)
        self.second = nn.Conv3d(16, 24, 3)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3, 4)))


@net("stem", "conv", inputs=image)
class WeightNorm(ImageNet):
    """The conv's weight is computed in forward from a direction and a length per filter."""

    def __init__(self):
        super().__init__(24)
        self.conv = parametrizations.weight_norm(conv(16, 24))

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


# ---- adds, concats, splits --------------------------------------------------------------------


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


# ---- movement on channels ---------------------------------------------------------------------


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


# ---- reshapes and linears ---------------------------------------------------------------------


@net("stem", "first", "second", inputs=image)
class NhwcRoundTrip(ImageNet):
    """permute to channels-last, an MLP of linears, permute back."""

    def __init__(self):
        super().__init__(24)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 24)

    def body(self, x: Tensor) -> Tensor:
        x = self.second(F.gelu(self.first(x.permute(0, 2, 3, 1))))
        return x.permute(0, 3, 1, 2)


@net("stem", "conv", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class NhwcFlatten(ImageNet):
    """Channels-last before flatten: a channel is every 16th column of the linear, not a block."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 16)
        self.first = nn.Linear(4 * 4 * 16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.stem(x))))
        return self.head(F.relu(self.first(x.permute(0, 2, 3, 1).flatten(1))))


@net("stem", "conv", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class FlattenLinear(ImageNet):
    """flatten(1): a channel is a block of 16 columns of the linear."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 16)
        self.first = nn.Linear(16 * 4 * 4, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(F.relu(self.stem(x))))
        return self.head(F.relu(self.first(x.flatten(1))))


@net("stem", "first", inputs=lambda: (draw(2, 3, 4, 4),))
class LiteralView(ImageNet):
    """x.view(-1, 16 * 4 * 4): after the cut the batch would swallow what is missing."""

    def __init__(self):
        super().__init__(24)
        self.first = nn.Linear(16 * 4 * 4, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).view(-1, 16 * 4 * 4)
        return self.head(F.relu(self.first(x)))


@net("stem", "across", "last", inputs=image)
class EqualSizes(ImageNet):
    """Height, width and channels are all 8: only what is coupled tells them apart."""

    def __init__(self):
        super().__init__(8, stem=8)
        self.rows, self.across = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = conv(8, 8)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.rows(x))
        x = F.relu(self.across(x.transpose(1, 3))).transpose(1, 3)
        return self.last(x)


@net("stem", "mix", inputs=image)
class Unfold(ImageNet):
    """im2col: each channel becomes nine neighbouring rows of a matrix."""

    def __init__(self):
        super().__init__(24)
        self.mix = nn.Conv1d(16 * 9, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1)
        return F.relu(self.mix(columns)).unflatten(2, (8, 8))


@net("stem", "side", inputs=image)
class OuterProduct(ImageNet):
    """Bilinear pooling: entry (i, j) goes when channel i of one conv or j of the other goes."""

    def __init__(self):
        super().__init__(8 * 12, stem=8)
        self.side = conv(3, 12)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).mean((2, 3)), self.side(x).amax((2, 3))
        return self.head((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1))


# ---- mixing over channels ---------------------------------------------------------------------


@net("stem", "conv", "squeeze", "excite", inputs=image)
class SqueezeExcite(ImageNet):
    """The gate's last layer is tied to the channels it gates; its inner one is free."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.squeeze, self.excite = nn.Linear(32, 8), nn.Linear(8, 32)

    def body(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


@net("stem", inputs=image)
class SpatialAttention(ImageNet):
    """A mean over channels, kept as a dim of one: what stays changes with what goes."""

    def __init__(self):
        super().__init__(16)
        self.gate = conv(1, 1)

    def body(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(1, keepdim=True)).sigmoid()


@net("stem", inputs=image)
class MaxOverChannels(ImageNet):
    """A maximum over channels: masking by zero is not removal where all others are negative."""

    def body(self, x: Tensor) -> Tensor:
        x = -1 - x
        return x * x.amax(1, keepdim=True)


@net("stem", "conv", inputs=image)
class ChannelSoftmax(ImageNet):
    """A softmax over channels: a removed channel gives its share to the others."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(8 * x.softmax(1)))


@net("stem", "conv", inputs=image)
class Normalize(ImageNet):
    """A vector norm over channels: a sum of squares that loses terms."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return F.normalize(self.conv(x), dim=1)


@net("stem", "conv", inputs=image)
class GroupNorm(ImageNet):
    """Statistics over groups of eight channels: groups go whole, or equally many of each."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.GroupNorm(4, 32)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class OneGroupNorm(ImageNet):
    """GroupNorm(1): statistics over all channels and pixels."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.GroupNorm(1, 32)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class InstanceNorm(ImageNet):
    """Statistics per channel: nothing is mixed, though the kernel folds the batch into channels."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32, bias=False)
        self.norm = nn.InstanceNorm2d(32, affine=True)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class LayerNormLast(ImageNet):
    """Layer norm on channels-last, as in ConvNeXt: mean and variance over what is cut."""

    def __init__(self):
        super().__init__(32)
        self.conv = conv(16, 32)
        self.norm = nn.LayerNorm(32)

    def body(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@net("embed", "first", "second", inputs=tokens)
class NormMlpResidual(TokenNet):
    """A transformer's MLP half: norm, two linears, residual."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32)

    def body(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(self.norm(x))))


# ---- parameters and buffers that are in no layer ----------------------------------------------


@net("stem", "conv", inputs=image)
class LayerScale(ImageNet):
    """A raw parameter of one number per channel scales a residual branch."""

    def __init__(self):
        super().__init__(16)
        self.conv = conv(16, 16)
        self.gamma = nn.Parameter(torch.full((16, 1, 1), 0.5))

    def body(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.conv(x)


@net("patch", "first", "second", inputs=image)
class ClassToken(nn.Module):
    """ViT's raw parameters: a class token that is concatenated, a position embedding that is added."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(0.1 * torch.randn(1, 17, 32))
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 32)
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.second(F.gelu(self.first(x)))
        return self.head(self.mix(x.transpose(1, 2)).transpose(1, 2)[:, 0])


@net("stem", "conv", inputs=image)
class ChannelBuffers(ImageNet):
    """A mean and a deviation per inner channel, kept in buffers."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.register_buffer("mean", torch.rand(1, 16, 1, 1))
        self.register_buffer("std", torch.rand(1, 16, 1, 1) + 0.5)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv((x - self.mean) / self.std))


class FrozenNorm(nn.Module):
    """Batch norm as four buffers and a few pointwise ops."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


@net("stem", "conv", inputs=image)
class FrozenBatchNorm(ImageNet):
    """The detectors' FrozenBatchNorm: nothing of it is a parameter, all of it is per channel."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24, bias=False)
        self.norm = FrozenNorm(24)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


@net("stem", "conv", inputs=image)
class ChannelPrelu(ImageNet):
    """PReLU with a slope per channel: a parameter of an activation."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.slope = nn.PReLU(24)

    def body(self, x: Tensor) -> Tensor:
        return self.slope(self.conv(x))


@net("stem", inputs=image)
class EinsumParameter(ImageNet):
    """einsum contracts the channels with a raw matrix."""

    def __init__(self):
        super().__init__(24)
        self.weight = nn.Parameter(torch.randn(16, 24) / 4)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(torch.einsum("nchw,cd->ndhw", x, self.weight))


@net("embed", inputs=tokens)
class MatmulParameter(TokenNet):
    """x @ w with a raw matrix, stored the other way round than a linear's."""

    def __init__(self):
        super().__init__(24)
        self.weight = nn.Parameter(torch.randn(32, 24) / 5)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.weight)


@net("stem", "left", "right", inputs=image)
class WhereMask(ImageNet):
    """where picks between two branches, by a buffer over pixels and by the values themselves."""

    def __init__(self):
        super().__init__(24)
        self.left, self.right = conv(16, 24), conv(16, 24)
        self.register_buffer("mask", torch.rand(8, 8) > 0.5)

    def body(self, x: Tensor) -> Tensor:
        x = torch.where(self.mask, self.left(x), self.right(x))
        return torch.where(x > 0, x, 0.1 * x)


@net("stem", "conv", inputs=image)
class FrozenWeights(ImageNet):
    """requires_grad=False everywhere: no autograd graph to walk."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)
        self.requires_grad_(False)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


# ---- one weight, several uses -----------------------------------------------------------------


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


# ---- attention --------------------------------------------------------------------------------


def heads(x: Tensor, count: int) -> Tensor:
    """f32[N, T, count * D] -> f32[N, count, T, D]."""
    return x.unflatten(2, (count, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """f32[N, heads, T, D] -> f32[N, T, heads * D]."""
    return x.transpose(1, 2).flatten(2)


class AttentionNet(TokenNet):
    """Separate q, k, v of 4 heads x 8 and an output projection, for bodies that differ between them."""

    def __init__(self, kv_heads: int = 4):
        super().__init__()
        self.q, self.proj = nn.Linear(32, 32), nn.Linear(32, 32)
        self.k = nn.Linear(32, 8 * kv_heads, bias=False)
        self.v = nn.Linear(32, 8 * kv_heads)
        self.kv_heads = kv_heads

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = self.kv_heads
        return heads(self.q(x), 4), heads(self.k(x), count), heads(self.v(x), count)


@net("embed", "qkv", "proj", inputs=tokens)
class FusedQkv(TokenNet):
    """qkv = 3 x heads x head_dim in one linear; SDPA's default scale is the original head_dim's."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim = 4, 8
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def body(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv)
        return x + self.proj(out.transpose(1, 2).reshape(n, t, self.heads * self.head_dim))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class SeparateQkv(AttentionNet):
    """Three linears, softmax by hand: the scale is a constant and must stay; v's head_dim is its own."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        weights = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1)
        return x + self.proj(joined(weights @ v))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class GroupedQuery(AttentionNet):
    """Two query heads share a key head, which is expanded: a shared head goes with its queries."""

    def __init__(self):
        super().__init__(kv_heads=2)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        k, v = (part[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for part in (k, v))
        return x + self.proj(joined(F.scaled_dot_product_attention(q, k, v)))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class GroupedQueryFlag(AttentionNet):
    """The same, left to SDPA's enable_gqa."""

    def __init__(self):
        super().__init__(kv_heads=2)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return x + self.proj(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))


@net("embed", "attention", "attention.out_proj", inputs=tokens)
class ModuleAttention(TokenNet):
    """nn.MultiheadAttention: one packed in_proj_weight, and a fused kernel in eval mode."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class Rotary(AttentionNet):
    """Rotated pairs: dim i of a head is cut with dim i + 4, and with its column of sines and cosines."""

    def __init__(self):
        super().__init__()
        angles = torch.outer(torch.arange(10.0), 10 ** -torch.arange(0, 1, 0.25)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, scale=8**-0.5)
        return x + self.proj(joined(out))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class RelativeBias(AttentionNet):
    """A table of biases (distance, head), gathered by a constant index: its columns go with the heads."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(19, 4))
        places = torch.arange(10)
        self.register_buffer("distance", places[:, None] - places + 9)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        bias = self.table[self.distance.view(-1)].view(10, 10, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(2, 3) / 8**0.5 + bias).softmax(-1)
        return x + self.proj(joined(weights @ v))


@net("stem", "qkv", "proj", inputs=image)
class ShiftedWindows(ImageNet):
    """Swin: the map is rolled, cut into 4 x 4 windows, attended to within each, and put back."""

    def __init__(self):
        super().__init__(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (heads(part, 2) for part in self.qkv(x).chunk(3, 2))
        return self.proj(joined((q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v))

    def body(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
        n, h, w, c = y.shape
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.attend(y)
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + y.roll((2, 2), (1, 2)).permute(0, 3, 1, 2)


# ---- recurrence -------------------------------------------------------------------------------


@net("embed", "lstm", inputs=tokens)
class Lstm(TokenNet):
    """Four gates of 16 in one weight, the hidden size also its own input."""

    def __init__(self):
        super().__init__(16)
        self.lstm = nn.LSTM(32, 16, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@net("embed", "gru", inputs=tokens)
class BidirectionalGru(TokenNet):
    """Two layers, both directions: the second reads the concat, both directions keep equally many."""

    def __init__(self):
        super().__init__(32)
        self.gru = nn.GRU(32, 16, num_layers=2, bidirectional=True, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


@net("stem", "conv", inputs=image)
class CumulativeSum(ImageNet):
    """cumsum over pixels: channels pass through untouched."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.conv(x.cumsum(2) / 8).tanh()


# ---- inputs and outputs -----------------------------------------------------------------------


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


# ---- what no rule can carry: refused by name --------------------------------------------------


@net("stem", inputs=image)
class SortChannels(ImageNet):
    """A sort over channels forgets which is which: conv stays whole, the stem before it need not."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.conv(x).sort(1).values


@net("stem", inputs=image)
class FourierChannels(ImageNet):
    """A Fourier transform over channels: every output needs them all, at their places."""

    def __init__(self):
        super().__init__(13)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(self.conv(x), dim=1, norm="ortho").abs()


@net(inputs=image)
class NothingToCut(nn.Module):
    """One conv, whose channels are the output: exit code 3, not a silent no-op."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
