"""Blocks that look at values or positions: sorting, choosing, masking, sampling, transforming."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import WIDTHS, Do, Form, Pick, block


@block("tokens", plain=False)
def best_tokens(pick: Pick, x: Form) -> nn.Module:
    """The tokens with the highest scores."""
    count, spelt = pick((1, 2, 3)), pick(("gather", "index"))

    def forward(t: Tensor, score: nn.Module) -> Tensor:
        at = score(t).squeeze(-1).topk(min(count, t.shape[1]), 1)[1]
        if spelt == "gather":
            return t.gather(1, at.unsqueeze(-1).expand(-1, -1, t.shape[-1]))
        return t[torch.arange(t.shape[0])[:, None], at]

    return Do(forward, nn.Linear(x.c, 1))


@block("any", plain=False)
def sorted_values(pick: Pick, x: Form) -> nn.Module:
    """Sorted along the tokens or the last dimension of space, or along the channels themselves."""
    along = pick(((1 if x.kind == "tokens" else x.rank - 1), x.dim))
    return Do(lambda t: t.sort(along)[0])


@block("any", plain=False)
def strongest(pick: Pick, x: Form) -> nn.Module:
    """Only the values above the mean over the channels."""
    return Do(lambda t: torch.where(t >= t.mean(x.dim, keepdim=True), t, torch.zeros_like(t)))


@block("any", plain=False)
def winner(pick: Pick, x: Form) -> nn.Module | None:
    """A channel's number, as a value."""
    return Do(lambda t: t + 0.1 * t.argmax(x.dim, keepdim=True).to(t.dtype))


@block("tokens", plain=False)
def padding_mask(pick: Pick, x: Form) -> nn.Module:
    """Tokens whose sum is low are left out of the mean."""

    def forward(t: Tensor) -> Tensor:
        mask = (t.sum(-1, keepdim=True) > -1).to(t.dtype)
        return t - (t * mask).sum(1, keepdim=True) / (mask.sum(1, keepdim=True) + 1)

    return Do(forward)


@block("map")
def sampled(pick: Pick, x: Form) -> nn.Module | None:
    """Bilinear samples on a grid of the network's own, or one that the features choose."""
    if len(x.space) != 2:
        return None
    if pick(("own", "features")) == "own":
        return Do(
            lambda t, g: F.grid_sample(t, g.expand(t.shape[0], -1, -1, -1), align_corners=False),
            torch.rand(1, 3, 4, 2),
        )

    def forward(t: Tensor, offset: nn.Module) -> Tensor:
        return F.grid_sample(t, offset(t).permute(0, 2, 3, 1).tanh(), align_corners=True)

    return Do(forward, nn.Conv2d(x.c, 2, 1))


@block("any", plain=False)
def fourier(pick: Pick, x: Form) -> nn.Module:
    """A transform over space, or over the channels (FNet)."""
    along = pick((-1, x.dim))
    return Do(lambda t: torch.fft.fft(t, dim=along).real * 0.3)


@block("any", plain=False)
def likeness(pick: Pick, x: Form) -> nn.Module:
    """Cosine with a prototype, as a gate."""
    return Do(
        lambda t, p: t * F.cosine_similarity(t, p, dim=x.dim).unsqueeze(x.dim),
        nn.Parameter(torch.randn(x.along(x.c))),
    )


@block("tokens", plain=False)
def distances(pick: Pick, x: Form) -> nn.Module:
    """Distances between tokens as weights."""
    return Do(lambda t: torch.softmax(-torch.cdist(t, t), -1) @ t)


@block("any")
def added_at(pick: Pick, x: Form) -> nn.Module | None:
    """Channels that are added to others by position."""
    if x.c < 2:
        return None
    at = torch.randperm(x.c)
    return Do(lambda t, index: t.index_add(x.dim, index, 0.5 * t), at)


@block("words", "tokens")
def one_hot(pick: Pick, x: Form) -> nn.Module:
    return Do(
        lambda t, layer: layer(F.one_hot(t, 11).to(layer.weight.dtype)), nn.Linear(11, pick(WIDTHS))
    )


@block("words", "vector")
def bag(pick: Pick, x: Form) -> nn.Module:
    return nn.EmbeddingBag(11, pick(WIDTHS), mode=pick(("mean", "sum")))


@block("map")
def same_padding(pick: Pick, x: Form) -> nn.Module:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(x.space)]
    return kind(x.c, pick(WIDTHS), pick((2, 3)), padding="same", dilation=pick((1, 2)))


@block("map")
def refolded(pick: Pick, x: Form) -> nn.Module | None:
    """Windows taken apart and put together again."""
    if len(x.space) != 2 or any(n % 2 for n in x.space) or x.c > 16:
        return None
    return Do(lambda t: F.fold(F.unfold(t, 2, stride=2).relu(), t.shape[2:], 2, stride=2))


@block("tokens", plain=False)
def masked_attention(pick: Pick, x: Form) -> nn.Module | None:
    """nn.MultiheadAttention, sequence first, with masks, keys of another width, or a bias of its own."""
    heads = pick((1, 2, 3))
    if x.c % heads:
        return None
    how = pick(("causal", "padding", "other width", "bias_kv"))
    if how == "other width":
        layer = nn.MultiheadAttention(x.c, heads, kdim=5, vdim=7)

        def wide(t: Tensor, layer: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
            t = t.transpose(0, 1)
            return layer(t, k(t), v(t))[0].transpose(0, 1)

        return Do(wide, layer, nn.Linear(x.c, 5), nn.Linear(x.c, 7))
    layer = nn.MultiheadAttention(x.c, heads, add_bias_kv=how == "bias_kv", batch_first=True)

    def forward(t: Tensor, layer: nn.Module) -> Tensor:
        size = t.shape[1]
        if how == "causal":
            mask = torch.ones(size, size, dtype=torch.bool, device=t.device).triu(1)
            return layer(t, t, t, attn_mask=mask, need_weights=False)[0]
        if how == "padding":
            mask = torch.zeros(t.shape[0], size, dtype=torch.bool, device=t.device)
            mask[:, -1] = True
            return layer(t, t, t, key_padding_mask=mask)[0]
        return layer(t, t, t)[0]

    return Do(forward, layer)
