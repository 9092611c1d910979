"""What attention comes in: who shares heads, what is contracted with what; and parts that stay equal."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.attention import AttentionNet, heads, joined
from nets.case import ImageNet, TokenNet, image, net, tokens


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class MultiQuery(AttentionNet):
    """One key head for all: it is broadcast over the query heads."""

    def __init__(self):
        super().__init__(kv_heads=1)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        return x + self.proj(joined((q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class FoldedQuery(TokenNet):
    """One key head again; the query heads are folded into the rows of the product, beside the tokens."""

    def __init__(self):
        super().__init__()
        self.q, self.proj = nn.Linear(32, 32), nn.Linear(32, 32)
        self.k, self.v = nn.Linear(32, 8), nn.Linear(32, 8)

    def body(self, x: Tensor) -> Tensor:
        q = heads(self.q(x), 4).flatten(1, 2)
        out = (q @ self.k(x).transpose(1, 2) * 8**-0.5).softmax(-1) @ self.v(x)
        return x + self.proj(joined(out.unflatten(1, (4, -1))))


@net("embed", "other", "q", "k", "v", "proj", inputs=lambda: (*tokens(), tokens()[0][:, :7] + 1))
class CrossAttention(AttentionNet):
    """Queries of one stream, keys and values of another one."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(12, 24)
        self.k, self.v = nn.Linear(24, 32, bias=False), nn.Linear(24, 32)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.embed(x), self.other(y)
        q, k, v = heads(self.q(x), 4), heads(self.k(y), 4), heads(self.v(y), 4)
        weights = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1)
        return self.head((x + self.proj(joined(weights @ v))).mean(1))


@net("embed", "qkv", "proj", inputs=tokens)
class ChannelAttention(TokenNet):
    """XCiT: channels attend to channels. Tokens are contracted, head_dim stands on both sides of the map."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.temperature = nn.Parameter(torch.ones(4, 1, 1))

    def body(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 4, 1).unbind(0)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(2, 3) * self.temperature).softmax(-1)
        return x + self.proj((weights @ v).permute(0, 3, 1, 2).reshape(n, t, c))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class EinsumAttention(AttentionNet):
    """The products are einsums, whose letters stand in another order."""

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (4, 8)) for part in (self.q(x), self.k(x), self.v(x)))
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) * 8**-0.5).softmax(-1)
        return x + self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2))


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class QueryKeyNorm(AttentionNet):
    """Queries and keys are normalised over what a head holds, by weights that the heads share."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(8), nn.LayerNorm(8)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        q, k = self.q_norm(q), self.k_norm(k)
        return x + self.proj(joined((q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v))


@net("patch", "qkv", "proj", "fc1", inputs=image)
class ScaledClassToken(nn.Module):
    """A ViT block: class token, position table, layer scale, gated MLP; the class token is read."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(torch.randn(1, 5, 32))
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)
        self.fc1, self.gate, self.fc2 = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(32)) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        q, k, v = self.qkv(x).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, scale=8**-0.5)
        x = x + self.scale1 * self.proj(joined(out))
        x = x + self.scale2 * self.fc2(F.silu(self.gate(x)) * self.fc1(x))
        return self.head(x[:, 0])


@net("stem", "qkv", "proj", "side", inputs=image)
class WindowsWithLocalBias(ImageNet):
    """CSWin: attention in windows, and a depthwise convolution of v that is added to what v was made."""

    def __init__(self):
        super().__init__(16)
        self.qkv, self.proj = nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1)
        self.side = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(x.roll((-1, -1), (2, 3))).chunk(3, 1)
        parts = (p.reshape(n, 2, c // 2, h // 4, 4, w).permute(0, 3, 1, 4, 5, 2) for p in (q, k, v))
        a, b, d = (p.reshape(-1, 2, 4 * w, c // 2) for p in parts)
        out = (a @ b.transpose(2, 3) * 8**-0.5).softmax(-1) @ d
        out = out.reshape(n, h // 4, 2, 4, w, c // 2).permute(0, 2, 5, 1, 3, 4).reshape(n, c, h, w)
        return x + self.proj(out + self.side(v)).roll((1, 1), (2, 3))


@net("stem", "q", "v", inputs=image)
class StreamAttention(ImageNet):
    """SAGAN: no output projection, v's channels are those of the stream itself; one head."""

    def __init__(self):
        super().__init__(16)
        self.q, self.k, self.v = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 16, 1)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return x + (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])


@net("embed", "first", inputs=tokens)
class AdaptedMlp(TokenNet):
    """Low-rank adapters beside both layers of an MLP: base and adapter are one layer, not a stream."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 32)
        self.down1, self.up1 = nn.Linear(32, 4, bias=False), nn.Linear(4, 48, bias=False)

    def body(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.first(x) + 2 * self.up1(self.down1(x))))


@net("stem", "first", "second", inputs=image)
class ProjectedShortcut(ImageNet):
    """One residual block whose shortcut is a layer too: neither side of the sum follows from the other."""

    def __init__(self):
        super().__init__(24)
        self.first, self.second = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 24, 3, 1, 1)
        self.shortcut = nn.Conv2d(16, 24, 1, 2)

    def body(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x))) + self.shortcut(x)


@net("stem", "expand", "squeeze", inputs=image)
class GatedResidual(ImageNet):
    """Squeeze and excitation added to what it gates: one layer made the channels, no stream begins."""

    def __init__(self):
        super().__init__(24)
        self.expand, self.squeeze = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 6, 1)
        self.excite = nn.Conv2d(6, 24, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(x + x * gate)


@net("stem", "conv", inputs=image)
class PaddedGroups(ImageNet):
    """Channels padded with a constant, then read in groups: the pads lie in rows and columns that go."""

    def __init__(self):
        super().__init__(24)
        self.conv = nn.Conv2d(20, 24, 3, padding=1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.pad(x, (0, 0, 0, 0, 1, 3), value=0.5)))


@net("enter", "first", "second", "leave", inputs=image)
class EvenSplit(nn.Module):
    """Three runs of a chunk that are free of each other: its forward needs them equally wide."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(3, 36, 1)
        self.first, self.second = nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.leave, self.head = nn.Conv2d(28, 24, 1), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = F.silu(self.enter(x)).chunk(3, 1)
        x = torch.cat([self.first(a), F.relu(self.second(b)), c], 1)
        return self.head(F.relu(self.leave(x)).mean((2, 3)))
