"""Blocks that turn one kind of value into another: maps, tokens, vectors."""

import torch
from torch import Tensor, nn

from fuzz.recipe import WIDTHS, Do, Form, Pick, block, divisors, weight


@block("map", "tokens")
def to_tokens(pick: Pick, x: Form) -> nn.Module:
    if pick(("flatten", "view")) == "flatten":
        return Do(lambda t: t.flatten(2).transpose(1, 2))
    return Do(lambda t: t.view(t.shape[0], x.c, -1).permute(0, 2, 1))


@block("tokens", "map")
def to_map(pick: Pick, x: Form) -> nn.Module:
    height = pick(divisors(x.shape[0]))
    if pick(("transpose", "reshape")) == "transpose":
        return Do(lambda t: t.transpose(1, 2).unflatten(2, (height, -1)))

    def forward(t: Tensor) -> Tensor:
        n, length, c = t.shape
        return t.reshape(n, height, length // height, c).permute(0, 3, 1, 2).contiguous()

    return Do(forward)


@block("map", "tokens")
def patches(pick: Pick, x: Form) -> nn.Module | None:
    """A strided convolution, then tokens with a position each."""
    if len(x.space) != 2 or any(n % 2 for n in x.space):
        return None
    layer, length = nn.Conv2d(x.c, width := pick(WIDTHS), 2, 2), x.space[0] * x.space[1] // 4
    return Do(
        lambda t, layer, p: layer(t).flatten(2).transpose(1, 2) + p, layer, weight(1, length, width)
    )


@block("map", "vector")
def pooled(pick: Pick, x: Form) -> nn.Module:
    over, how = tuple(range(2, x.rank)), pick(("mean", "amax", "both", "last"))
    if how == "mean":
        return Do(lambda t: t.mean(over))
    if how == "amax":
        return Do(lambda t: t.amax(over))
    if how == "both":
        return Do(lambda t: torch.cat([t.mean(over), t.amax(over)], 1))
    return Do(lambda t: t.flatten(2)[:, :, -1])


@block("map", "vector")
def flattened(pick: Pick, x: Form) -> nn.Module:
    """Channels and positions as one."""
    how, size = pick(("flatten", "literal", "view")), x.c
    for n in x.space:
        size *= n
    if how == "flatten":
        return nn.Flatten()
    return (
        Do(lambda t: t.reshape(-1, size))
        if how == "literal"
        else Do(lambda t: t.reshape(t.shape[0], -1))
    )


@block("tokens", "vector")
def summary(pick: Pick, x: Form) -> nn.Module:
    how = pick(("mean", "first", "amax", "flatten", "last"))
    return {
        "mean": Do(lambda t: t.mean(1)),
        "first": Do(lambda t: t[:, 0]),
        "last": Do(lambda t: t[:, -1, :]),
        "amax": Do(lambda t: t.amax(1)),
        "flatten": Do(lambda t: t.flatten(1)),
    }[how]


@block("tokens", "vector", plain=False)
def attention_pool(pick: Pick, x: Form) -> nn.Module:
    """A weight for each token, from the token."""

    def forward(t: Tensor, score: nn.Module) -> Tensor:
        return (score(t).softmax(1) * t).sum(1)

    return Do(forward, nn.Linear(x.c, 1))


@block("tokens")
def class_token(pick: Pick, x: Form) -> nn.Module:
    """A token of the network's own before the others."""
    how = pick(("expand", "repeat"))

    def forward(t: Tensor, token: Tensor) -> Tensor:
        n = t.shape[0]
        token = token.expand(n, -1, -1) if how == "expand" else token.repeat(n, 1, 1)
        return torch.cat([token, t], 1)

    return Do(forward, weight(1, pick((1, 1, 2)), x.c))


@block("tokens")
def positions(pick: Pick, x: Form) -> nn.Module:
    return Do(lambda t, p: t + p[:, : t.shape[1]], weight(1, x.shape[0] + pick((0, 0, 2)), x.c))


@block("vector", "map")
def seen_as_map(pick: Pick, x: Form) -> nn.Module:
    """Channels x positions, from one run of numbers."""
    space = pick(divisors(x.c))
    if pick(("unflatten", "view")) == "unflatten":
        return nn.Unflatten(1, (x.c // space, space))
    return Do(lambda t: t.view(t.shape[0], -1, space))


@block("vector", "tokens")
def seen_as_tokens(pick: Pick, x: Form) -> nn.Module:
    length, how = pick(divisors(x.c)), pick(("view", "expand"))
    if how == "view":
        return Do(lambda t: t.view(-1, length, x.c // length))
    return Do(lambda t, p: t.unsqueeze(1).expand(-1, 4, -1) + p, weight(1, 4, x.c))


@block("vector", "map")
def spread_out(pick: Pick, x: Form) -> nn.Module:
    """One number a channel, at every position."""
    return Do(lambda t: t[:, :, None, None].expand(-1, -1, 3, 2) * 1)


@block("tokens")
def channels_as_tokens(pick: Pick, x: Form) -> nn.Module:
    """Tokens and channels change places."""
    return Do(lambda t: t.transpose(1, 2))
