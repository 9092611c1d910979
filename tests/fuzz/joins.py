"""Blocks that read several values: sums, products, concatenations, cross attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import WIDEST, WIDTHS, Do, Form, Pick, block

TWO = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - 0.5 * b,
    "mul": lambda a, b: a * torch.tanh(b),
    "gate": lambda a, b: a * torch.sigmoid(b),
    "max": torch.maximum,
    "where": lambda a, b: torch.where(a > b, a, -b),
    "div": lambda a, b: a / (1 + b.abs()),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.1),
    "in place": lambda a, b: (a * 1).add_(b),
    "stack": lambda a, b: torch.stack([a, b]).sum(0),
    "mean": lambda a, b: torch.stack([a, b], -1).mean(-1),
}


@block("any any")
def combined(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """Two values of one shape, element by element."""
    if x.shape != y.shape:
        return None
    f = TWO[pick(tuple(TWO))]
    return Do(lambda a, b: f(a, b))


@block("any any")
def joined(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """Concatenated along the channels."""
    if x.kind != y.kind or x.space != y.space or x.c + y.c > WIDEST:
        return None
    axis = x.axis(pick)
    return Do(lambda a, b: torch.cat([a, b], axis))


@block("any any any")
def joined_three(pick: Pick, x: Form, y: Form, z: Form) -> nn.Module | None:
    if not x.kind == y.kind == z.kind or not x.space == y.space == z.space:
        return None
    if x.c + y.c + z.c > WIDEST:
        return None
    return Do(lambda a, b, c: torch.cat((a, b, c), x.dim))


@block("map map")
def resized_and_joined(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """Upsampled to the other's size, then concatenated (a neck)."""
    if len(x.space) != len(y.space) or x.c + y.c > WIDEST:
        return None

    def forward(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([F.interpolate(a, size=b.shape[2:]), b], 1)

    return Do(forward)


@block("any any")
def overlapped(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """The first channels of one, and the last of the other."""
    if x.kind != y.kind or x.space != y.space or min(x.c, y.c) < 2:
        return None
    n = 2 + pick(range(min(x.c, y.c) - 1))
    return Do(lambda a, b: a[x.at(slice(None, n))] + b[x.at(slice(y.c - n, None))])


@block("any any")
def padded_sum(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """A shortcut padded with zeros to the other's width."""
    if x.kind != y.kind or x.space != y.space or x.c >= y.c:
        return None
    before = pick((0, (y.c - x.c) // 2))
    pad = [0] * (2 * (x.rank - 1 - x.dim)) + [before, y.c - x.c - before]
    return Do(lambda a, b: F.pad(a, pad) + b)


@block("map map")
def pooled_gate(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """One map, times the other's mean."""
    if x.c != y.c:
        return None
    over, extra = tuple(range(2, y.rank)), (None,) * len(x.space)
    return Do(lambda a, b: a * b.mean(over)[(..., *extra)])


@block("tokens tokens", plain=False)
def cross_attention(pick: Pick, x: Form, y: Form) -> nn.Module:
    """Queries of one, keys and values of the other."""
    heads, dim = pick((1, 2, 3)), pick((2, 3, 4))

    def forward(a: Tensor, b: Tensor, q: nn.Module, kv: nn.Module, out: nn.Module) -> Tensor:
        query = q(a).unflatten(2, (heads, -1)).transpose(1, 2)
        key, value = kv(b).view(b.shape[0], -1, 2, heads, dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return out(mixed.transpose(1, 2).flatten(2))

    inner = heads * dim
    out = nn.Linear(inner, pick(WIDTHS))
    return Do(forward, nn.Linear(x.c, inner), nn.Linear(y.c, 2 * inner, bias=False), out)


@block("tokens tokens", plain=False)
def decoder_layer(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    heads = pick((1, 2, 3))
    if x.c % heads or x.c != y.c:
        return None
    return nn.TransformerDecoderLayer(x.c, heads, pick((6, 11)), batch_first=True)


@block("any any", plain=False)
def similarity(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """A product of two values over their channels, as weights of the second."""
    if x.kind != "tokens" or y.kind != "tokens" or x.c != y.c:
        return None
    return Do(lambda a, b: (a @ b.transpose(1, 2)).softmax(-1) @ b)


@block("vector vector", plain=False)
def outer(pick: Pick, x: Form, y: Form) -> nn.Module | None:
    """Every channel of one times every channel of the other."""
    if x.c * y.c > WIDEST:
        return None
    how = pick(("einsum", "product"))
    if how == "einsum":
        return Do(lambda a, b: torch.einsum("ni,nj->nij", a, b).flatten(1))
    return Do(lambda a, b: (a[:, :, None] * b[:, None]).flatten(1))


@block("map vector")
def modulated(pick: Pick, x: Form, y: Form) -> nn.Module:
    """Scale and shift of each channel from a vector (FiLM)."""
    extra = (None,) * len(x.space)

    def forward(a: Tensor, b: Tensor, layer: nn.Module) -> Tensor:
        scale, shift = layer(b).chunk(2, 1)
        return a * (1 + scale[(..., *extra)]) + shift[(..., *extra)]

    return Do(forward, nn.Linear(y.c, 2 * x.c))


@block("tokens vector", plain=False)
def adaptive_norm(pick: Pick, x: Form, y: Form) -> nn.Module:
    """Layer norm with its scale and shift from a vector (DiT)."""

    def forward(a: Tensor, b: Tensor, layer: nn.Module) -> Tensor:
        shift, scale, gate = layer(F.silu(b)).unsqueeze(1).chunk(3, -1)
        return a + gate * (F.layer_norm(a, (a.shape[-1],)) * (1 + scale) + shift)

    return Do(forward, nn.Linear(y.c, 3 * x.c))
