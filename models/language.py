"""A decoder-only language model of the Llama kind: RMS norms, grouped-query attention, rotary embeddings, gated MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the model; `heads` is a multiple of `kv_heads`."""

    vocabulary: int = 1000
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 160
    layers: int = 2


BILLION = Config(vocabulary=128_256, width=2048, heads=32, kv_heads=8, hidden=8192, layers=16)


class Norm(nn.Module):
    """Root mean square norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of x [batch, heads, positions, channels] by angles [positions, channels / 2]."""
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Causal attention with fewer key and value heads than query heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.head_dim = config.width // config.heads
        self.q = nn.Linear(config.width, config.heads * self.head_dim, bias=False)
        self.k = nn.Linear(config.width, config.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(config.heads * self.head_dim, config.width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q = self.q(x).view(batch, count, self.heads, -1).transpose(1, 2)
        k = self.k(x).view(batch, count, self.kv_heads, -1).transpose(1, 2)
        v = self.v(x).view(batch, count, self.kv_heads, -1).transpose(1, 2)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(
            rotated(q, angles), rotated(k, angles), v, is_causal=True
        )
        return self.out(y.transpose(1, 2).reshape(batch, count, -1))


class Block(nn.Module):
    """Attention and a gated MLP, each around a norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(config.width), Norm(config.width)
        self.attention = Attention(config)
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), angles)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Language(nn.Module):
    """Token ids [batch, positions] -> logits [batch, positions, vocabulary]."""

    angles: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        rate = torch.arange(config.width // config.heads // 2) * -0.2
        self.register_buffer("angles", torch.arange(64)[:, None] * rate.exp(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        angles = self.angles[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))


def on_meta(config: Config) -> Language:
    """The model with shapes and no weights, in eval mode."""
    with torch.device("meta"):
        return Language(config).eval()
