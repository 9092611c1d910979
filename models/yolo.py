"""Detectors of the YOLO pattern, small: split-and-concat stages, SPPF, a PAN neck, decoupled heads, boxes from bins.

Written for this project; none is trained. `SMALL` maps a name to a function that gives a network in eval
mode and its inputs. A network gives its three raw maps, and before them f32[N, 4 + classes, anchors] in eval
mode.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZE = 64  # pixels of a side: the anchors are buffers


class Conv(nn.Module):
    """Conv, batch norm, SiLU."""

    def __init__(self, inp: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """Two convs and the input, where that is asked for."""

    def __init__(self, width: int, add: bool, inner: float = 1.0) -> None:
        super().__init__()
        self.add = add
        self.first = Conv(width, int(width * inner), 3)
        self.second = Conv(int(width * inner), width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """The input in two halves, a block on the last part again and again, all parts joined."""

    def __init__(self, inp: int, out: int, count: int, add: bool) -> None:
        super().__init__()
        self.c = out // 2
        self.enter = Conv(inp, 2 * self.c)
        self.leave = Conv((2 + count) * self.c, out)
        self.blocks = nn.ModuleList(self.block(self.c, add) for _ in range(count))

    def block(self, width: int, add: bool) -> nn.Module:
        return Bottleneck(width, add)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class C3(nn.Module):
    """Two ways side by side, one of them through bottlenecks."""

    def __init__(self, width: int, count: int, add: bool) -> None:
        super().__init__()
        half = width // 2
        self.left, self.right = Conv(width, half), Conv(width, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, add) for _ in range(count)))
        self.leave = Conv(2 * half, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.cat((self.blocks(self.left(x)), self.right(x)), 1))


class C3k2(C2f):
    """C2f with a C3 for each block, and its halves split by a size that it knows."""

    def block(self, width: int, add: bool) -> nn.Module:
        return C3(width, 2, add)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split((self.c, self.c), 1))
        parts.extend(block(parts[-1]) for block in self.blocks)  # the last part is read as it grows
        return self.leave(torch.cat(parts, 1))


class SPPF(nn.Module):
    """A max pool three times over, all four maps joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = Conv(width, width // 2), Conv(2 * width, width)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.leave(torch.cat(maps, 1))


class Attention(nn.Module):
    """Over pixels; keys are half as wide as values, and q, k, v of a head lie side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim**-0.5
        self.qkv = Conv(width, width + 2 * self.key_dim * heads, act=False)
        self.project = Conv(width, width, act=False)
        self.position = Conv(width, width, 3, groups=width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x).view(n, self.num_heads, 2 * self.key_dim + self.head_dim, h * w)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], 2)
        weights = (q.transpose(2, 3) @ k * self.scale).softmax(-1)
        y = (v @ weights.transpose(2, 3)).view(n, c, h, w)
        return self.project(y + self.position(v.reshape(n, c, h, w)))


class C2PSA(nn.Module):
    """Half of the channels passes by, the other goes through attention and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c = width // 2
        self.enter, self.leave = Conv(width, 2 * self.c), Conv(2 * self.c, width)
        self.attention = Attention(self.c, heads)
        self.mlp = nn.Sequential(Conv(self.c, 2 * self.c), Conv(2 * self.c, self.c, act=False))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).split((self.c, self.c), 1)
        b = b + self.attention(b)
        b = b + self.mlp(b)
        return self.leave(torch.cat((a, b), 1))


class Bins(nn.Module):
    """The mean of 16 bins under a softmax, by a 1x1 conv that holds 0 to 15: f32[N, 4 * 16, A] -> f32[N, 4, A]."""

    def __init__(self, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(float(bins)).view(1, bins, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, anchors = x.shape
        x = x.view(n, 4, self.bins, anchors).transpose(2, 1).softmax(1)
        return self.conv(x).view(n, 4, anchors)


class Detect(nn.Module):
    """Boxes and classes of three maps, each by convs of its own."""

    anchors: Tensor
    strides: Tensor

    def __init__(self, classes: int, widths: tuple[int, ...], deep: bool) -> None:
        super().__init__()
        self.classes, self.bins = classes, 16
        box, score = max(16, widths[0] // 4), max(widths[0], classes)
        self.boxes = nn.ModuleList(
            nn.Sequential(Conv(w, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * self.bins, 1))
            for w in widths
        )
        self.scores = nn.ModuleList(
            nn.Sequential(*_scorer(w, score, deep), nn.Conv2d(score, classes, 1)) for w in widths
        )
        self.mean = Bins(self.bins)
        anchors, strides = _grid(SIZE, (8, 16, 32))
        self.register_buffer("anchors", anchors)
        self.register_buffer("strides", strides)

    def forward(self, maps: list[Tensor]) -> Any:
        raw = [
            torch.cat((box(x), score(x)), 1)
            for x, box, score in zip(maps, self.boxes, self.scores, strict=True)
        ]
        if self.training:
            return raw
        flat = torch.cat([x.view(len(x), 4 * self.bins + self.classes, -1) for x in raw], 2)
        boxes, scores = flat.split((4 * self.bins, self.classes), 1)
        near, far = self.mean(boxes).chunk(2, 1)
        low, high = self.anchors - near, self.anchors + far
        boxes = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((boxes, scores.sigmoid()), 1), raw


def _scorer(inp: int, out: int, deep: bool) -> list[nn.Module]:
    """Two convs, or two pairs of a depthwise and a 1x1 one."""
    if not deep:
        return [Conv(inp, out, 3), Conv(out, out, 3)]
    first = nn.Sequential(Conv(inp, inp, 3, groups=inp), Conv(inp, out))
    return [first, nn.Sequential(Conv(out, out, 3, groups=out), Conv(out, out))]


def _grid(size: int, strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centres f32[2, A] in cells and strides f32[1, A] of all cells of all maps."""
    points, steps = [], []
    for stride in strides:
        line = torch.arange(size // stride) + 0.5
        y, x = torch.meshgrid(line, line, indexing="ij")
        points.append(torch.stack((x, y)).flatten(1))
        steps.append(torch.full((1, x.numel()), float(stride)))
    return torch.cat(points, 1), torch.cat(steps, 1)


class Yolo(nn.Module):
    """Backbone, neck and head as one list of layers, each with the layers that it reads: f32[N, 3, 64, 64].

    late: C3k2 stages, attention after the pool, and depthwise class heads.
    """

    def __init__(self, width: int = 16, classes: int = 7, late: bool = False) -> None:
        super().__init__()
        a, b, c, d = width, 2 * width, 4 * width, 8 * width
        stage = C3k2 if late else C2f
        up = nn.Upsample(scale_factor=2, mode="nearest")
        top = C2PSA(d, 2) if late else Conv(d, d)
        layers: list[tuple[list[int], nn.Module]] = [
            ([-1], Conv(3, a, 3, 2)), ([-1], Conv(a, b, 3, 2)), ([-1], stage(b, b, 1, True)),
            ([-1], Conv(b, c, 3, 2)), ([-1], stage(c, c, 2, True)),  # 4: every 8 pixels
            ([-1], Conv(c, c, 3, 2)), ([-1], stage(c, c, 2, True)),  # 6: every 16
            ([-1], Conv(c, d, 3, 2)), ([-1], SPPF(d)), ([-1], top),  # 9: every 32
            ([-1], up), ([-1, 6], nn.Identity()), ([-1], stage(c + d, c, 1, False)),  # 12
            ([-1], up), ([-1, 4], nn.Identity()), ([-1], stage(2 * c, b, 1, False)),  # 15
            ([-1], Conv(b, b, 3, 2)), ([-1, 12], nn.Identity()), ([-1], stage(b + c, c, 1, False)),  # 18
            ([-1], Conv(c, c, 3, 2)), ([-1, 9], nn.Identity()), ([-1], stage(c + d, d, 1, False)),  # 21
        ]  # fmt: skip
        self.reads = [reads for reads, _ in layers]
        self.layers = nn.ModuleList(layer for _, layer in layers)
        self.detect = Detect(classes, (b, c, d), late)

    def forward(self, x: Tensor) -> Any:
        maps = [x]
        for reads, layer in zip(self.reads, self.layers, strict=True):
            given = [maps[i if i < 0 else i + 1] for i in reads]
            maps.append(layer(given[0] if len(given) == 1 else torch.cat(given, 1)))
        return self.detect([maps[i + 1] for i in (15, 18, 21)])


def _made(**options: Any) -> Callable[[], tuple[nn.Module, Any]]:
    generator = torch.Generator().manual_seed(0)
    return lambda: (Yolo(**options).eval(), (torch.randn(1, 3, SIZE, SIZE, generator=generator),))


SMALL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "yolo_c2f": _made(),
    "yolo_c3k2": _made(late=True),
}
