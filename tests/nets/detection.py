"""What detectors are made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, conv, image, net


@net("stem", "box", "score", inputs=image)
class BoxBins(nn.Module):
    """YOLO's distances: a softmax over 16 bins, their mean by a fixed 1x1 conv, anchors in a buffer.

    What the two convs give is an output too, so that their last channels stay.
    """

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 16)
        self.box, self.score = conv(16, 24), conv(16, 24)
        self.boxes, self.scores = conv(24, 4 * 16, 1), conv(24, 5, 1)
        self.mean = nn.Conv2d(16, 1, 1, bias=False).requires_grad_(False)
        self.mean.weight.data[:] = torch.arange(16.0).view(1, 16, 1, 1)
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("anchors", torch.stack((x, y)).flatten(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.stem(x))
        raw = torch.cat((self.boxes(self.box(x).relu()), self.scores(self.score(x).relu())), 1)
        boxes, scores = raw.flatten(2).split((64, 5), 1)
        bins = boxes.view(len(x), 4, 16, -1).transpose(1, 2).softmax(1)
        near, far = self.mean(bins).squeeze(1).chunk(2, 1)
        boxes = torch.cat((self.anchors - near, self.anchors + far), 1)
        return torch.cat((boxes, scores.sigmoid()), 1), raw


@net("stem", "side", "tower", inputs=image)
class OneHeadForAllLevels(nn.Module):
    """FCOS, RetinaNet: one tower reads every level, which must agree; positions of all are joined."""

    def __init__(self):
        super().__init__()
        self.stem, self.side = conv(3, 16), conv(16, 16, stride=2)
        self.tower, self.scale = conv(16, 24), nn.Parameter(torch.ones(2))
        self.head = conv(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.relu(self.stem(x))
        levels = [fine, F.relu(self.side(fine))]
        out = [self.head(F.relu(self.tower(y)) * self.scale[i]) for i, y in enumerate(levels)]
        return torch.cat([y.flatten(2).transpose(1, 2) for y in out], 1)


@net("stem", "enter", "leave", inputs=image)
class PoolPyramid(ImageNet):
    """SPPF: a max pool again and again, all of its maps joined: one channel stands at four places."""

    def __init__(self):
        super().__init__(24)
        self.enter, self.leave = conv(16, 8, 1), conv(32, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        maps = [F.silu(self.enter(x))]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 3, 1, 1))
        return F.silu(self.leave(torch.cat(maps, 1)))


@net("stem", "qkv", "proj", "position", inputs=image)
class NarrowKeys(ImageNet):
    """YOLO's attention: q and k of half the width of v, side by side within each head."""

    def __init__(self):
        super().__init__(16)
        self.qkv, self.proj = conv(16, 32, 1), conv(16, 16, 1)
        self.position = conv(16, 16, groups=16)
        self.heads, self.key, self.value = 2, 4, 8

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x).view(n, self.heads, 2 * self.key + self.value, h * w)
        q, k, v = qkv.split([self.key, self.key, self.value], 2)
        weights = (q.transpose(2, 3) @ k * 4**-0.5).softmax(-1)
        y = (v @ weights.transpose(2, 3)).view(n, c, h, w)
        return x + self.proj(y + self.position(v.reshape(n, c, h, w)))


@net("stem", "first", "second", "leave", inputs=image)
class PartsReadAsTheyGrow(ImageNet):
    """C3k2: extend with a generator that reads the list's own last part; split by a size in an attribute."""

    def __init__(self):
        super().__init__(24)
        self.half = 12
        self.enter = conv(16, 24, 1)
        self.first, self.second = conv(12, 12), conv(12, 12)
        self.leave = conv(48, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).split((self.half, self.half), 1))
        parts.extend(F.silu(m(parts[-1])) for m in (self.first, self.second))
        return self.leave(torch.cat(parts, 1))
