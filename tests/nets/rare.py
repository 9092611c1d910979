"""Ops that few networks run: rotary turns by complex numbers, distances, diagonals, order statistics."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from nets.case import ImageNet, TokenNet, conv, image, net, tokens


@net("q", "k", "v", inputs=tokens)
class ComplexRotary(TokenNet):
    """Llama's own code: queries and keys turned as complex numbers; pairs of a head go together."""

    def __init__(self):
        super().__init__(24)
        self.q, self.k, self.v = (nn.Linear(32, 24) for _ in range(3))
        angles = torch.outer(torch.arange(10.0), 100.0 ** -torch.arange(0, 1, 0.25))
        self.register_buffer("turns", torch.view_as_real(torch.polar(torch.ones(10, 4), angles)))

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(self.turns)).flatten(-2)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (3, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (self.turned(q) @ self.turned(k).transpose(-1, -2)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(-2)


@net("embed", "key", inputs=tokens)
class Distances(TokenNet):
    """Tokens that look at those near them."""

    def __init__(self):
        super().__init__()
        self.key = nn.Linear(32, 20)

    def body(self, x: Tensor) -> Tensor:
        key = self.key(x)
        return torch.exp(-torch.cdist(key, key)) @ x


@net("embed", inputs=tokens)
class OwnShare(TokenNet):
    """Each token weighted by the diagonal of a matrix of products."""

    def body(self, x: Tensor) -> Tensor:
        own = torch.diagonal(x @ x.transpose(1, 2), 0, 1, 2)
        return (
            torch.einsum("bii->bi", x @ x.transpose(1, 2))[..., None].sigmoid() * x + own[..., None]
        )


@net("stem", "conv", inputs=image)
class OrderStatistics(ImageNet):
    """The median and the k-th value over positions, the distance of a pair, and the largest so far."""

    def __init__(self):
        super().__init__(16)
        self.conv = conv(16, 16)

    def body(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2)
        far = F.pairwise_distance(y, y.flip(2))
        y = y.cummax(2).values * y.median(2, keepdim=True).values - y.kthvalue(3, 2, True).values
        return (y * far[..., None]).unflatten(2, (8, 8)).rot90(1, (2, 3))


@net("stem", "picture", inputs=image)
class PlacedRows(ImageNet):
    """Rows of one stream written where a mask over rows says, as pictures among words."""

    def __init__(self):
        super().__init__(16)
        self.picture = conv(16, 16)
        self.register_buffer("where", torch.arange(64) % 3 == 0)

    def body(self, x: Tensor) -> Tensor:
        rows, shown = (y.flatten(2).transpose(1, 2) for y in (x, self.picture(x)))
        mask = self.where[None, :, None].expand_as(rows)
        return rows.masked_scatter(mask, shown).transpose(1, 2).unflatten(2, (8, 8))


@net("stem", "offsets", inputs=image)
class DeformableRuns(ImageNet):
    """A deformable convolution whose four runs of channels are each read where their own offsets say."""

    def __init__(self):
        super().__init__(24)
        self.offsets = conv(16, 4 * 18)
        self.deformed = DeformConv2d(16, 24, 3, padding=1, groups=2)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.deformed(x, self.offsets(x)))


@net("embed", "q", "v", inputs=tokens)
class Registered(TokenNet):
    """Learned tokens beside those of the input: places that attention looks at."""

    def __init__(self):
        super().__init__(32)
        self.registers = nn.Parameter(torch.randn(1, 4, 32))
        self.q, self.k, self.v = (nn.Linear(32, 24) for _ in range(3))
        self.out = nn.Linear(24, 32)

    def body(self, x: Tensor) -> Tensor:
        x = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
        weights = (self.q(x) @ self.k(x).transpose(1, 2) / 5).softmax(-1)
        return x + self.out(weights @ self.v(x))


@net("stem", "left", "right", inputs=image)
class Emptied(ImageNet):
    """A reversible block that frees what it needs no more, as RevNets do: through a view, and by itself."""

    def __init__(self):
        super().__init__(16)
        self.left, self.right = conv(8, 8), conv(8, 8)

    def body(self, x: Tensor) -> Tensor:
        a, b = (half.contiguous() for half in x.chunk(2, 1))
        c = a + self.left(b)
        d = b + self.right(c)
        out = torch.cat([c, d], 1)
        with torch.no_grad():
            for spent in (a, d.detach()):
                spent.set_()
        return out
