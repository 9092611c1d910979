"""Attention of every make, and recurrent layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import WIDTHS, Do, Form, Pick, block, divisors, weight


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: pairs of channels turned, the pairs half a head apart."""
    a, b = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()


class Attention(nn.Module):
    """Multi-head attention as networks write it; `core` and `extra` choose among the usual ways."""

    def __init__(self, pick: Pick, width: int, length: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = pick((1, 2, 3, 4)), pick((2, 4, 3, 6))
        self.kv_heads = pick(divisors(self.num_heads))
        self.core = pick(("sdpa", "sdpa", "scaled", "softmax", "einsum", "channels"))
        self.extra = pick((None, None, "rotary", "norm", "unit", "bias", "causal"))
        self.layout = pick(("fused", "separate", "interleaved"))
        self.read = pick(("attribute", "rest"))
        if self.extra == "rotary" and self.head_dim % 2:
            self.extra = None
        q, kv = self.num_heads * self.head_dim, self.kv_heads * self.head_dim
        bias = pick((True, False))
        if self.layout == "separate":
            self.q, self.k, self.v = (nn.Linear(width, n, bias=bias) for n in (q, kv, kv))
        elif self.layout == "fused":
            self.qkv = nn.Linear(width, q + 2 * kv, bias=bias)
        else:
            self.kv_heads = self.num_heads
            self.qkv = nn.Linear(width, 3 * q, bias=bias)
        self.proj = nn.Linear(q, pick((width, width, *WIDTHS)))
        if self.extra == "norm":
            self.q_norm, self.k_norm = nn.LayerNorm(self.head_dim), nn.RMSNorm(self.head_dim)
        if self.extra == "bias":
            self.bias = weight(self.num_heads, length, length)
        if self.extra == "rotary":
            angles = torch.outer(torch.arange(length), torch.rand(self.head_dim // 2))
            self.register_buffer("angles", torch.cat([angles, angles], -1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._heads(x)
        if self.extra == "norm":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.extra == "unit":
            q, k = F.normalize(q, dim=-1, eps=1e-2), F.normalize(k, dim=-1, eps=1e-2)
        if self.extra == "rotary":
            q, k = rotated(q, self.angles), rotated(k, self.angles)
        groups = self.num_heads // self.kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = self._mixed(q, k, v).transpose(1, 2)
        return self.proj(out.reshape(out.shape[0], out.shape[1], -1))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        n, length, _ = x.shape
        last = self.head_dim if self.read == "attribute" else -1
        if self.layout == "interleaved":
            qkv = self.qkv(x).view(n, length, 3, self.num_heads, last)
            return qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.layout == "separate":
            parts = (self.q(x), self.k(x), self.v(x))
        else:
            q, kv = self.num_heads * self.head_dim, self.kv_heads * self.head_dim
            parts = self.qkv(x).split([q, kv, kv], -1)
        heads = (self.num_heads, self.kv_heads, self.kv_heads)
        return tuple(
            t.view(n, length, h, last).transpose(1, 2) for t, h in zip(parts, heads, strict=True)
        )

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale, mask = self.head_dim**-0.5, None
        if self.core == "channels":  # attention between channels (XCiT)
            return (
                ((q * scale).transpose(-2, -1) @ k)
                .softmax(-1)
                .matmul(v.transpose(-2, -1))
                .transpose(-2, -1)
            )
        if self.extra == "bias":
            mask = self.bias
        if self.extra == "causal":
            mask = torch.full((q.shape[2], q.shape[2]), -1e4, dtype=q.dtype, device=q.device).triu(
                1
            )
        if self.core == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if self.core == "scaled":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        if self.core == "einsum":
            scores = torch.einsum("nhid,nhjd->nhij", q, k) * scale
        else:
            scores = (q * scale) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return torch.einsum("nhij,nhjd->nhid", weights, v) if self.core == "einsum" else weights @ v


@block("tokens", plain=False)
def attention(pick: Pick, x: Form) -> nn.Module:
    return Attention(pick, x.c, x.shape[0])


@block("tokens", plain=False)
def transformer_block(pick: Pick, x: Form) -> nn.Module:
    """Norm, attention, residual, norm, mlp, residual, maybe with layer scale."""
    inner, hidden, scaled = Attention(pick, x.c, x.shape[0]), pick(WIDTHS), pick((False, True))
    inner.proj = nn.Linear(inner.proj.in_features, x.c)
    kind = getattr(nn, pick(("LayerNorm", "RMSNorm")))

    def forward(t: Tensor, a: Any, inner: Any, b: Any, mlp: Any, s: Tensor) -> Tensor:
        t = t + (inner(a(t)) * s if scaled else inner(a(t)))
        return t + mlp(b(t))

    mlp = nn.Sequential(nn.Linear(x.c, hidden), nn.GELU(), nn.Linear(hidden, x.c))
    return Do(forward, kind(x.c), inner, kind(x.c), mlp, weight(x.c))


@block("tokens", plain=False)
def window_attention(pick: Pick, x: Form) -> nn.Module | None:
    """Attention inside runs of tokens, which may be shifted."""
    window, shift = pick(divisors(x.shape[0])), pick((0, 1))
    if window == 1:
        return None

    def forward(t: Tensor, inner: nn.Module) -> Tensor:
        n, length, _ = t.shape
        t = t.roll(-shift, 1) if shift else t
        t = inner(t.reshape(n * length // window, window, -1))
        t = t.reshape(n, length, -1)
        return t.roll(shift, 1) if shift else t

    return Do(forward, Attention(pick, x.c, window))


@block("map", plain=False)
def window_partition(pick: Pick, x: Form) -> nn.Module | None:
    """Attention inside windows of a picture (Swin)."""
    if len(x.space) != 2 or any(n % 2 for n in x.space):
        return None
    shift = pick((0, 1))

    def forward(t: Tensor, inner: nn.Module) -> Tensor:
        n, c, h, w = t.shape
        t = t.permute(0, 2, 3, 1)
        t = torch.roll(t, (-shift, -shift), (1, 2)) if shift else t
        t = t.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        t = inner(t).view(n, h // 2, w // 2, 2, 2, -1)
        t = t.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)
        return (torch.roll(t, (shift, shift), (1, 2)) if shift else t).permute(0, 3, 1, 2)

    return Do(forward, Attention(pick, x.c, 4))


@block("map", plain=False)
def map_attention(pick: Pick, x: Form) -> nn.Module | None:
    """1x1 convolutions make queries, keys and values of the positions."""
    heads, dim = pick((1, 2, 3)), pick((2, 4))
    rank, inner = len(x.space), heads * dim
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]

    def forward(t: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
        q, k, v = qkv(t).flatten(2).chunk(3, 1)
        q, k, v = (a.unflatten(1, (heads, dim)) for a in (q, k, v))
        weights = (q.transpose(-2, -1) @ k * dim**-0.5).softmax(-1)
        mixed = v @ weights.transpose(-2, -1)
        return out(mixed.flatten(1, 2).unflatten(2, t.shape[2:]))

    return Do(forward, kind(x.c, 3 * inner, 1), kind(inner, pick((x.c, *WIDTHS)), 1))


@block("tokens", plain=False)
def linear_attention(pick: Pick, x: Form) -> nn.Module:
    """Keys and values contracted first; no softmax over positions."""
    inner, out = pick((2, 4, 6)), pick(WIDTHS)

    def forward(t: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, o: nn.Module) -> Tensor:
        query, key = F.elu(q(t)) + 1, F.elu(k(t)) + 1
        top = query @ (key.transpose(1, 2) @ v(t))
        return o(top / (query @ key.sum(1).unsqueeze(-1) + 0.1))

    return Do(forward, *(nn.Linear(x.c, inner) for _ in range(3)), nn.Linear(inner, out))


@block("tokens", plain=False)
def torch_attention(pick: Pick, x: Form) -> nn.Module:
    """nn.MultiheadAttention, with and without its weights as a second output."""
    heads = pick(divisors(x.c))
    weights, bias = pick((False, True)), pick((True, False))
    layer = nn.MultiheadAttention(x.c, heads, bias=bias, batch_first=True)
    return Do(lambda t, layer: layer(t, t, t, need_weights=weights)[0], layer)


@block("tokens", plain=False)
def encoder_layer(pick: Pick, x: Form) -> nn.Module:
    heads, hidden, first = pick(divisors(x.c)), pick((3, 8, 13)), pick((True, False))
    act = pick(("relu", "gelu"))
    return nn.TransformerEncoderLayer(
        x.c, heads, hidden, activation=act, batch_first=True, norm_first=first
    )


class Recurrent(nn.Module):
    """A recurrent layer's outputs, its last state, or a sequence first layout."""

    def __init__(self, layer: nn.Module, how: str) -> None:
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "sequence first":
            return self.layer(x.transpose(0, 1))[0].transpose(0, 1)
        out, state = self.layer(x)
        if self.how == "outputs":
            return out
        return (state[0] if isinstance(state, tuple) else state).transpose(0, 1)


@block("tokens", plain=False)
def recurrent(pick: Pick, x: Form) -> nn.Module:
    kind, how = (
        pick(("LSTM", "GRU", "RNN")),
        pick(("outputs", "outputs", "sequence first", "state")),
    )
    options: dict[str, Any] = {"num_layers": pick((1, 1, 2)), "bidirectional": pick((False, True))}
    hidden = pick((1, 2, 3, 5, 6, 8))
    if kind == "LSTM" and hidden > 3 and pick((False, False, True)):
        options["proj_size"] = 2
    return Recurrent(
        getattr(nn, kind)(x.c, hidden, batch_first=how != "sequence first", **options), how
    )


@block("tokens", plain=False)
def gated_state(pick: Pick, x: Form) -> nn.Module:
    """A state carried over the tokens in a Python loop (a small Mamba)."""
    inner, size = pick((2, 3, 5, 8)), pick((2, 3))

    def forward(t: Tensor, up: nn.Module, bc: nn.Module, a: Tensor, down: nn.Module) -> Tensor:
        u, gate = up(t).chunk(2, -1)
        b, c = bc(u).chunk(2, -1)
        decay = torch.exp(-F.softplus(a))
        state, out = torch.zeros_like(u[:, 0])[..., None] * b[:, :1], []
        for i in range(t.shape[1]):
            state = state * decay + u[:, i, :, None] * b[:, i, None, :]
            out.append((state * c[:, i, None, :]).sum(-1))
        return down(torch.stack(out, 1) * F.silu(gate))

    return Do(
        forward, nn.Linear(x.c, 2 * inner), nn.Linear(inner, 2 * size), weight(inner, size),
        nn.Linear(inner, x.c),
    )  # fmt: skip
