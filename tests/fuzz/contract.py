"""Blocks that contract channels and make new ones: convolutions, matrix products, embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fuzz.recipe import WIDTHS, Do, Form, Pick, block, divisors, weight

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@block("map")
def conv(pick: Pick, x: Form) -> nn.Module:
    kernel, stride = pick((1, 3)), pick((1, 1, 1, 2))
    mode, bias = pick(("zeros", "zeros", "zeros", "circular", "replicate")), pick((True, False))
    return CONV[len(x.space)](
        x.c, pick(WIDTHS), kernel, stride, kernel // 2, bias=bias, padding_mode=mode
    )


@block("map")
def grouped_conv(pick: Pick, x: Form) -> nn.Module:
    groups, kernel = pick(divisors(x.c)), pick((1, 3))
    out = groups * pick((1, 1, 2, 3, x.c // groups))
    bias = pick((True, False))
    return CONV[len(x.space)](x.c, out, kernel, 1, kernel // 2, groups=groups, bias=bias)


@block("map")
def depthwise(pick: Pick, x: Form) -> nn.Module:
    return CONV[len(x.space)](x.c, x.c * pick((1, 1, 1, 2)), 3, pick((1, 1, 2)), 1, groups=x.c)


@block("map")
def transposed_conv(pick: Pick, x: Form) -> nn.Module:
    groups, kernel = pick((1, 1, *divisors(x.c))), pick((1, 2))
    out = groups * pick((1, 2, 3, 5, 8)) if groups > 1 else pick(WIDTHS)
    return TRANSPOSED[len(x.space)](
        x.c, out, kernel, kernel, groups=groups, bias=pick((True, False))
    )


@block("map")
def separable(pick: Pick, x: Form) -> nn.Module:
    kind = CONV[len(x.space)]
    first, out = kind(x.c, x.c, 3, padding=1, groups=x.c, bias=False), pick(WIDTHS)
    return nn.Sequential(first, nn.ReLU(), kind(x.c, out, 1))


@block("map", plain=False)
def standardised_conv(pick: Pick, x: Form) -> nn.Module | None:
    if x.c < 2:
        return None
    run = CONVOLVE[len(x.space)]

    def forward(t: Tensor, w: Tensor) -> Tensor:
        over = tuple(range(1, w.dim()))
        w = w - w.mean(over, keepdim=True)
        return run(t, w / (w.var(over, keepdim=True) + 1e-3).sqrt())

    return Do(forward, weight(pick(WIDTHS), x.c, *(1 for _ in x.space)))


@block("map")
def raw_conv(pick: Pick, x: Form) -> nn.Module:
    run, out = CONVOLVE[len(x.space)], pick(WIDTHS)
    return Do(lambda t, w, b: run(t, w, b), weight(out, x.c, *(1 for _ in x.space)), weight(out))


@block("map", plain=False)
def weight_normed_conv(pick: Pick, x: Form) -> nn.Module:
    return weight_norm(CONV[len(x.space)](x.c, pick(WIDTHS), 1))


@block("map")
def linear_round_trip(pick: Pick, x: Form) -> nn.Module:
    """Channels last and back again."""
    there = pick(("permute", "movedim"))
    last = (0, *range(2, x.rank), 1)
    back = (0, x.rank - 1, *range(1, x.rank - 1))

    def forward(t: Tensor, layer: nn.Module) -> Tensor:
        t = t.permute(last) if there == "permute" else t.movedim(1, -1)
        t = layer(t)
        return t.permute(back) if there == "permute" else t.movedim(-1, 1)

    return Do(forward, nn.Linear(x.c, pick(WIDTHS)))


@block("tokens")
def linear(pick: Pick, x: Form) -> nn.Module:
    return nn.Linear(x.c, pick(WIDTHS), bias=pick((True, False)))


@block("vector")
def dense(pick: Pick, x: Form) -> nn.Module:
    return nn.Linear(x.c, pick(WIDTHS), bias=pick((True, False)))


@block("any")
def head(pick: Pick, x: Form) -> nn.Module:
    """The last layer: a few classes from whatever comes."""
    if x.kind == "map":
        return CONV[len(x.space)](x.c, pick((3, 2)), 1)
    return nn.Linear(x.c, pick((3, 2)))


@block("tokens")
def mlp(pick: Pick, x: Form) -> nn.Module:
    return nn.Sequential(nn.Linear(x.c, hidden := pick(WIDTHS)), nn.GELU(), nn.Linear(hidden, x.c))


@block("tokens")
def gated_mlp(pick: Pick, x: Form) -> nn.Module:
    """SwiGLU: separate gates, or one fused linear that is chunked."""
    hidden, fused = pick(WIDTHS), pick((True, False))
    down = nn.Linear(hidden, x.c)
    if fused:

        def halves(t: Tensor, up: nn.Module, down: nn.Module) -> Tensor:
            a, b = up(t).chunk(2, -1)
            return down(F.silu(a) * b)

        return Do(halves, nn.Linear(x.c, 2 * hidden), down)

    def both(t: Tensor, gate: nn.Module, up: nn.Module, down: nn.Module) -> Tensor:
        return down(F.silu(gate(t)) * up(t))

    return Do(both, nn.Linear(x.c, hidden, bias=False), nn.Linear(x.c, hidden), down)


@block("any")
def raw_product(pick: Pick, x: Form) -> nn.Module:
    """A parameter of the network's own, by matmul or einsum."""
    w, how = weight(x.c, pick(WIDTHS)), pick(("matmul", "einsum", "tensordot"))
    own, out = "nabcdef"[: x.rank], "nabcdef"[: x.rank]
    own = own[: x.dim] + "x" + own[x.dim + 1 :]
    out = out[: x.dim] + "y" + out[x.dim + 1 :]
    if how == "einsum":
        return Do(lambda t, w: torch.einsum(f"{own},xy->{out}", t, w), w)
    if how == "tensordot":
        return Do(lambda t, w: torch.tensordot(t, w, ([x.dim], [0])).movedim(-1, x.dim), w)
    return Do(lambda t, w: (t.movedim(x.dim, -1) @ w).movedim(-1, x.dim), w)


@block("vector")
def addmm(pick: Pick, x: Form) -> nn.Module:
    out = pick(WIDTHS)
    return Do(lambda t, b, w: torch.addmm(b, t, w), weight(out), weight(x.c, out))


@block("vector", plain=False)
def bilinear(pick: Pick, x: Form) -> nn.Module:
    return Do(lambda t, layer: layer(t, t), nn.Bilinear(x.c, x.c, pick((2, 3, 5))))


@block("any")
def tied_autoencoder(pick: Pick, x: Form) -> nn.Module:
    """One weight and its transpose."""

    def forward(t: Tensor, w: Tensor) -> Tensor:
        t = t.movedim(x.dim, -1)
        return F.linear(F.relu(F.linear(t, w)), w.t()).movedim(-1, x.dim)

    return Do(forward, weight(pick(WIDTHS), x.c))


@block("tokens")
def token_conv(pick: Pick, x: Form) -> nn.Module:
    """A 1-d convolution over tokens."""
    groups = pick((1, 1, *divisors(x.c)))
    layer = nn.Conv1d(x.c, groups * pick((1, 2, 3, 4)), 3, padding=1, groups=groups)
    return Do(lambda t, layer: layer(t.transpose(1, 2)).transpose(1, 2), layer)


@block("tokens")
def token_mixing(pick: Pick, x: Form) -> nn.Module:
    """A linear over the tokens (Mixer)."""
    tokens = x.shape[0]
    return Do(
        lambda t, a, b: b(F.gelu(a(t.transpose(1, 2)))).transpose(1, 2),
        nn.Linear(tokens, hidden := pick((3, 4, 8))),
        nn.Linear(hidden, tokens),
    )


@block("words", "tokens")
def embedding(pick: Pick, x: Form) -> nn.Module:
    """Words, and maybe positions: an embedding looked up in order, or a parameter."""
    width, position = pick(WIDTHS), pick((None, "parameter", "embedding"))
    words = nn.Embedding(11, width, padding_idx=pick((None, 0)))
    if position is None:
        return words
    length = x.shape[0]
    if position == "parameter":
        return Do(lambda t, words, p: words(t) + p, words, weight(1, length, width))

    def forward(t: Tensor, words: nn.Module, places: nn.Module) -> Tensor:
        return words(t) + places(torch.arange(t.shape[1], device=t.device))

    return Do(forward, words, nn.Embedding(length, width))


@block("words", "tokens")
def tied_embedding(pick: Pick, x: Form) -> nn.Module:
    """A language model in small: the embedding is the output head as well."""
    width, hidden = pick(WIDTHS), pick(WIDTHS)

    def forward(t: Tensor, words: Any, body: nn.Module) -> Tensor:
        h = words(t)
        return F.linear(h + body(h), words.weight)

    body = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
    return Do(forward, nn.Embedding(11, width), body)


@block("map", plain=False)
def kernel_each(pick: Pick, x: Form) -> nn.Module | None:
    """A kernel for each example: mixed from a few by attention over the pooled map."""
    if len(x.space) != 2:
        return None
    out = pick(WIDTHS)

    def forward(t: Tensor, route: nn.Module, kernels: Tensor) -> Tensor:
        n, c, h, w = t.shape
        mix = torch.softmax(route(t.mean((2, 3))), 1)
        k = (mix @ kernels).view(-1, c, 1, 1)
        return F.conv2d(t.reshape(1, n * c, h, w), k, groups=n).view(n, -1, h, w)

    return Do(forward, nn.Linear(x.c, 4), weight(4, out * x.c))
