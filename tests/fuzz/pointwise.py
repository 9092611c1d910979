"""Blocks that keep every channel where it is: activations, scales, gates, constants."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import Do, Form, Pick, block, weight

ACTIVATIONS = (
    nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(),
    nn.ELU(), nn.LeakyReLU(0.1), nn.Softplus(), nn.Mish(), nn.ReLU6(), nn.Hardsigmoid(), nn.Dropout(),
)  # fmt: skip
NAMES = tuple(str(a) for a in ACTIVATIONS)
FUNCTIONS = {
    "abs": torch.abs,
    "square": torch.square,
    "sin": torch.sin,
    "clamp": lambda t: t.clamp(-1, 1),
    "half": lambda t: t * 0.5 + 1,
    "reciprocal": lambda t: 1 / (1 + t.abs()),
    "exp": lambda t: t.clamp(max=2).exp(),
    "where": lambda t: torch.where(t > 0, t, 0.1 * t),
    "masked_fill": lambda t: t.masked_fill(t < -1, 0.5),
    "in place": lambda t: (t * 1).add_(1).mul_(0.5),
    "detour": lambda t: t.to(torch.float64).to(t.dtype).contiguous().clone(),
    "like": lambda t: t + torch.ones_like(t),
    "zeros": lambda t: t + torch.zeros(t.shape, dtype=t.dtype, device=t.device),
    "new": lambda t: torch.maximum(t, t.new_full(t.shape, -0.5)),
}


@block("any")
def activation(pick: Pick, x: Form) -> nn.Module:
    return ACTIVATIONS[NAMES.index(pick(NAMES))]


@block("any")
def function(pick: Pick, x: Form) -> nn.Module:
    f = FUNCTIONS[pick(tuple(FUNCTIONS))]
    return Do(lambda t: f(t))


@block("map")
def prelu(pick: Pick, x: Form) -> nn.Module:
    return nn.PReLU(pick((1, x.c)))


@block("any")
def scale(pick: Pick, x: Form) -> nn.Module:
    """Layer scale: one number, one a channel, or one a position."""
    shape = pick(("one", "channel", "all"))
    own = {"one": (1,), "channel": x.along(x.c), "all": x.shape}[shape]
    return Do(lambda t, w: t * w, nn.Parameter(1 + torch.rand(own)))


@block("any")
def shift(pick: Pick, x: Form) -> nn.Module:
    """A buffer added, or a parameter seen in another shape."""
    if pick(("buffer", "view")) == "buffer":
        return Do(lambda t, w: t + w, torch.randn(x.along(x.c)))
    return Do(lambda t, w: t + w.view(x.along(-1)), weight(x.c))


@block("any")
def self_gate(pick: Pick, x: Form) -> nn.Module:
    return Do(lambda t: t * torch.sigmoid(t))


@block("any")
def by_width(pick: Pick, x: Form) -> nn.Module:
    """A factor computed from the width itself."""
    return Do(lambda t: t * t.shape[x.dim] ** -0.5)


@block("any")
def expanded(pick: Pick, x: Form) -> nn.Module:
    """One number expanded to every channel."""
    shape = x.along(x.c)
    return Do(lambda t, w: t + w.expand(shape), nn.Parameter(torch.rand(x.along(1))))


@block("map")
def squeeze_excite(pick: Pick, x: Form) -> nn.Module:
    """The pooled map through a bottleneck, as a gate."""
    hidden, how = pick((1, 2, 3, 5)), pick(("linear", "conv"))
    over = tuple(range(2, x.rank))
    if how == "linear":

        def by_linear(t: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
            gate = torch.sigmoid(b(F.relu(a(t.mean(over)))))
            return t * gate[(..., *(None for _ in over))]

        return Do(by_linear, nn.Linear(x.c, hidden), nn.Linear(hidden, x.c))

    def by_conv(t: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
        return t * torch.sigmoid(b(F.silu(a(t.mean(over, keepdim=True)))))

    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(over)]
    return Do(by_conv, kind(x.c, hidden, 1), kind(hidden, x.c, 1))


@block("map")
def efficient_attention(pick: Pick, x: Form) -> nn.Module:
    """A 1-d convolution along the pooled channels (ECA): channels are read by position."""
    over = tuple(range(2, x.rank))

    def forward(t: Tensor, along: nn.Module) -> Tensor:
        gate = along(t.mean(over).unsqueeze(1)).squeeze(1).sigmoid()
        return t * gate[(..., *(None for _ in over))]

    return Do(forward, nn.Conv1d(1, 1, 3, padding=1, bias=False))
