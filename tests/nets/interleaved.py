"""Channels in pairs that stand side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.attention import AttentionNet
from nets.case import net, tokens


@net("embed", "q", "k", "v", "proj", inputs=tokens)
class RotaryInterleaved(AttentionNet):
    """EVA's rotary embedding: dim 2i of a head is turned with dim 2i + 1, by two columns of the tables."""

    def __init__(self):
        super().__init__()
        angles = torch.outer(torch.arange(10.0), 10 ** -torch.arange(0, 1, 0.25))
        self.register_buffer("cos", angles.cos().repeat_interleave(2, -1))
        self.register_buffer("sin", angles.sin().repeat_interleave(2, -1))

    def turn(self, x: Tensor) -> Tensor:
        beside = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cos + beside * self.sin

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, scale=8**-0.5)
        out = out.transpose(1, 2).flatten(2)
        return x + self.proj(out)
