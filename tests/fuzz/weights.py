"""Blocks whose weights are computed, joined, split or shared before they are used."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm

from fuzz.contract import CONV, CONVOLVE
from fuzz.recipe import WIDTHS, Do, Form, Pick, block, divisors, weight


def on_channels(x: Form, f: Any) -> Any:
    """A function of the last dimension, run on the channels."""
    return lambda t, *parts: f(t.movedim(x.dim, -1), *parts).movedim(-1, x.dim)


@block("any")
def low_rank(pick: Pick, x: Form) -> nn.Module:
    """A weight and a low-rank change of it (LoRA), merged or not."""
    out, rank, merged = pick(WIDTHS), pick((1, 2, 3)), pick((True, False))

    def forward(t: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if merged:
            return F.linear(t, w + 0.5 * (b @ a))
        return F.linear(t, w) + 0.5 * F.linear(F.linear(t, a), b)

    return Do(on_channels(x, forward), weight(out, x.c), weight(rank, x.c), weight(out, rank))


@block("any")
def masked_weight(pick: Pick, x: Form) -> nn.Module:
    """Some weights switched off by a buffer."""
    out = pick(WIDTHS)
    mask = (torch.rand(out, x.c) > 0.3).float()
    return Do(on_channels(x, lambda t, w, m: F.linear(t, w * m)), weight(out, x.c), mask)


@block("any", plain=False)  # a zero may come out as another number
def bent_weight(pick: Pick, x: Form) -> nn.Module:
    out, how = pick(WIDTHS), pick(("tanh", "abs", "flip", "transposed", "double"))
    if how == "transposed":
        return Do(on_channels(x, lambda t, w: F.linear(t, w.t())), weight(x.c, out))
    bend = {
        "tanh": torch.tanh,
        "abs": torch.abs,
        "flip": lambda w: w.flip(0),
        "double": lambda w: w * 2 + 0.1,
    }[how]
    return Do(on_channels(x, lambda t, w: F.linear(t, bend(w))), weight(out, x.c))


@block("any")
def joined_weights(pick: Pick, x: Form) -> nn.Module:
    """Two layers' rows concatenated into one product, with a bias of which a part is zero (BEiT)."""
    a, b = nn.Linear(x.c, pick(WIDTHS)), nn.Linear(x.c, pick((3, 4, 8)))

    def forward(t: Tensor, a: Any, b: Any) -> Tensor:
        bias = torch.cat([a.bias, torch.zeros_like(b.bias)])
        return F.linear(t, torch.cat([a.weight, b.weight]), bias)

    return Do(on_channels(x, forward), a, b)


@block("any")
def split_weight(pick: Pick, x: Form) -> nn.Module:
    """One weight, its rows used in parts; the parts meet again in a sum or a product."""
    out, parts, how = pick((2, 3, 6, 8)), pick((2, 3)), pick(("sum", "product", "cat"))
    spelt = pick(("chunk", "unbind", "slice"))

    def forward(t: Tensor, w: Tensor) -> Tensor:
        if spelt == "chunk":
            each = w.chunk(parts)
        elif spelt == "unbind":
            each = w.view(parts, out, -1).unbind(0)
        else:
            each = [w[i * out : (i + 1) * out] for i in range(parts)]
        found = [F.linear(t, part) for part in each]
        if how == "cat":
            return torch.cat(found, -1)
        result = found[0]
        for other in found[1:]:
            result = result + other if how == "sum" else result * other.sigmoid()
        return result

    return Do(on_channels(x, forward), weight(parts * out, x.c))


@block("any")
def stacked_weights(pick: Pick, x: Form) -> nn.Module:
    """Experts: one weight for each, mixed by a gate."""
    experts, out = pick((2, 3)), pick(WIDTHS)

    def forward(t: Tensor, gate: nn.Module, w: Tensor) -> Tensor:
        each = torch.einsum("n...c,ecd->n...ed", t, w)
        return (each * gate(t).sigmoid().unsqueeze(-1)).sum(-2)

    return Do(on_channels(x, forward), nn.Linear(x.c, experts), weight(experts, x.c, out))


@block("map")
def merged_kernels(pick: Pick, x: Form) -> nn.Module:
    """A 3x3 and a 1x1 kernel as one (RepVGG)."""
    rank, out = len(x.space), pick(WIDTHS)
    run, three, one = CONVOLVE[rank], (3,) * rank, (1,) * rank

    def forward(t: Tensor, big: Tensor, small: Tensor) -> Tensor:
        return run(t, big + F.pad(small, [1, 1] * rank), padding=1)

    return Do(forward, weight(out, x.c, *three), weight(out, x.c, *one))


@block("map")
def folded_norm(pick: Pick, x: Form) -> nn.Module:
    """A convolution whose batch norm is folded at run time."""
    rank, out = len(x.space), pick(WIDTHS)
    run, layer = CONVOLVE[rank], CONV[rank](x.c, out, 1)

    def forward(t: Tensor, layer: Any, scale: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        factor = scale / torch.sqrt(var + 1e-3)
        w = layer.weight * factor.reshape(-1, *(1 for _ in range(rank + 1)))
        return run(t, w, factor * (layer.bias - mean))

    return Do(forward, layer, weight(out), torch.randn(out), torch.rand(out) + 0.5)


class Doubled(nn.Module):
    """A parametrization that keeps every row and column."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@block("map", plain=False)
def parametrized(pick: Pick, x: Form) -> nn.Module | None:
    """torch's own parametrizations; some mix all of a weight."""
    layer, how = (
        CONV[len(x.space)](x.c, pick(WIDTHS), 1),
        pick(("double", "spectral", "orthogonal")),
    )
    if how == "double":
        parametrize.register_parametrization(layer, "weight", Doubled())
        return layer
    return spectral_norm(layer) if how == "spectral" else orthogonal(layer)


@block("tokens", plain=False)
def position_bias(pick: Pick, x: Form) -> nn.Module:
    """Attention with a table of relative positions, looked up by a buffer (Swin)."""
    heads, dim, length = pick((1, 2, 3)), pick((2, 4)), x.shape[0]
    offset = torch.arange(length)[:, None] - torch.arange(length) + length - 1
    spelt = pick(("flat", "direct"))

    def forward(t: Tensor, qkv: Any, out: Any, table: Tensor, index: Tensor) -> Tensor:
        n, size, _ = t.shape
        q, k, v = qkv(t).reshape(n, size, 3, heads, -1).permute(2, 0, 3, 1, 4)
        if spelt == "flat":
            bias = table[index.view(-1)].view(size, size, -1).permute(2, 0, 1).contiguous()
        else:
            bias = table[index].permute(2, 0, 1)
        mixed = (q * dim**-0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1) @ v
        return out(mixed.transpose(1, 2).reshape(n, size, -1))

    qkv, out = nn.Linear(x.c, 3 * heads * dim), nn.Linear(heads * dim, pick((x.c, *WIDTHS)))
    return Do(forward, qkv, out, weight(2 * length - 1, heads), offset)


@block("map")
def resized_positions(pick: Pick, x: Form) -> nn.Module | None:
    """A learned map brought to the picture's size."""
    if len(x.space) != 2:
        return None
    mode = pick(("bilinear", "nearest", "bicubic"))
    return Do(lambda t, p: t + F.interpolate(p, t.shape[2:], mode=mode), weight(1, x.c, 3, 3))


@block("map")
def coordinates(pick: Pick, x: Form) -> nn.Module:
    """Constant maps of the positions beside the channels (CoordConv), then a convolution."""
    layer = CONV[len(x.space)](x.c + 1, pick(WIDTHS), 1)

    def forward(t: Tensor, layer: nn.Module) -> Tensor:
        line = torch.linspace(-1, 1, t.shape[-1], dtype=t.dtype, device=t.device)
        return layer(torch.cat([t, line.expand(t.shape[0], 1, *t.shape[2:])], 1))

    return Do(forward, layer)


@block("tokens")
def waves(pick: Pick, x: Form) -> nn.Module | None:
    """Sines and cosines of the positions, made in the forward for the width of the input."""
    if x.c % 2:
        return None

    def forward(t: Tensor) -> Tensor:
        at = torch.arange(t.shape[1], dtype=t.dtype, device=t.device)[:, None]
        rate = torch.exp(torch.arange(0, x.c, 2, dtype=t.dtype, device=t.device) * -0.3)
        return t + torch.cat([(at * rate).sin(), (at * rate).cos()], -1)

    return Do(forward)


@block("tokens", plain=False)
def prompts(pick: Pick, x: Form) -> nn.Module:
    """Tokens of the network's own that ask those of the input (Perceiver, DETR)."""
    heads, dim, count = pick((1, 2)), pick((3, 4)), pick((2, 5))

    def forward(t: Tensor, ask: Tensor, q: Any, k: Any, v: Any, out: Any) -> Tensor:
        n = t.shape[0]

        def heads_of(a: Tensor) -> Tensor:
            return a.view(a.shape[0], -1, heads, dim).transpose(1, 2)

        query = heads_of(q(ask)).expand(n, -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query, heads_of(k(t)), heads_of(v(t)))
        return out(mixed.transpose(1, 2).reshape(n, count, -1))

    width, inner = pick(WIDTHS), heads * dim
    return Do(
        forward, weight(1, count, width), nn.Linear(width, inner), nn.Linear(x.c, inner),
        nn.Linear(x.c, inner), nn.Linear(inner, pick(WIDTHS)),
    )  # fmt: skip


@block("any", plain=False)
def codebook(pick: Pick, x: Form) -> nn.Module:
    """Weights of the network's own entries by likeness to each position, and their mean."""
    entries = pick((3, 5))
    return Do(on_channels(x, lambda t, w: (t @ w.t()).softmax(-1) @ w), weight(entries, x.c))


@block("any")
def shared_halves(pick: Pick, x: Form) -> nn.Module | None:
    """One layer for each run of the channels."""
    parts = pick(divisors(x.c))
    if parts == 1:
        return None
    layer = nn.Linear(x.c // parts, pick((x.c // parts, 3, 5)))

    def forward(t: Tensor, layer: nn.Module) -> Tensor:
        return torch.cat([layer(part) for part in t.chunk(parts, -1)], -1)

    return Do(on_channels(x, forward), layer)


@block("any")
def block_diagonal(pick: Pick, x: Form) -> nn.Module:
    """A weight for each run of the channels, as one batched product."""
    parts, out = pick(divisors(x.c)), pick((2, 3, 4))
    how = pick(("einsum", "matmul"))

    def forward(t: Tensor, w: Tensor) -> Tensor:
        t = t.unflatten(-1, (parts, -1))
        if how == "einsum":
            return torch.einsum("...gi,gio->...go", t, w).flatten(-2)
        return (t.unsqueeze(-2) @ w).squeeze(-2).flatten(-2)

    return Do(on_channels(x, forward), weight(parts, x.c // parts, out))
