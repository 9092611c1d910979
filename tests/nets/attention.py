"""Attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, image, net, tokens


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
