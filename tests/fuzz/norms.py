"""Blocks with statistics: norms of every kind, softmax, means and extremes over channels or space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.recipe import Do, Form, Pick, block, divisors, weight

BATCH = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@block("any")
def batch_norm(pick: Pick, x: Form) -> nn.Module:
    affine = pick((True, True, False))
    if x.kind != "tokens":
        return BATCH[len(x.space)](x.c, affine=affine)
    layer = nn.BatchNorm1d(x.c, affine=affine)
    return Do(lambda t, layer: layer(t.transpose(1, 2)).transpose(1, 2), layer)


@block("map")
def frozen_batch_norm(pick: Pick, x: Form) -> nn.Module:
    """Four buffers and no layer of torch.nn."""

    def forward(t: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        factor = w * (var + 1e-5).rsqrt()
        shape = (1, -1, *(1 for _ in x.space))
        return t * factor.reshape(shape) + (b - mean * factor).reshape(shape)

    c = x.c
    return Do(forward, torch.rand(c) + 0.5, torch.randn(c), torch.randn(c), torch.rand(c) + 0.5)


@block("map", plain=False)
def group_norm(pick: Pick, x: Form) -> nn.Module:
    return nn.GroupNorm(pick(divisors(x.c)), x.c, affine=pick((True, True, False)))


@block("map")
def instance_norm(pick: Pick, x: Form) -> nn.Module:
    return INSTANCE[len(x.space)](
        x.c, affine=pick((True, False)), track_running_stats=pick((False, True))
    )


@block("any", plain=False)
def layer_norm(pick: Pick, x: Form) -> nn.Module:
    """Over the last dimension, over all but the batch, or over the channels by a round trip."""
    affine, over = pick((True, True, False)), pick(("channels", "channels", "last", "all"))
    if over == "all":
        return nn.LayerNorm(x.shape, elementwise_affine=affine)
    if over == "last":
        return nn.LayerNorm(x.shape[-1], elementwise_affine=affine)
    layer = nn.LayerNorm(x.c, elementwise_affine=affine)
    return Do(lambda t, layer: layer(t.movedim(x.dim, -1)).movedim(-1, x.dim), layer)


@block("tokens", plain=False)
def rms_norm(pick: Pick, x: Form) -> nn.Module:
    """torch's own, or written out."""
    if pick(("layer", "by hand")) == "layer":
        return nn.RMSNorm(x.c, elementwise_affine=pick((True, False)))

    def forward(t: Tensor, w: Tensor) -> Tensor:
        return t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6) * w

    return Do(forward, weight(x.c))


@block("any", plain=False)
def norm_by_hand(pick: Pick, x: Form) -> nn.Module:
    """Mean and variance over the channels."""

    def forward(t: Tensor, w: Tensor) -> Tensor:
        mean = t.mean(x.dim, keepdim=True)
        var = t.var(x.dim, keepdim=True, unbiased=False)
        return (t - mean) / torch.sqrt(var + 1e-3) * w

    return Do(forward, weight(*x.along(x.c)))


@block("any", plain=False)
def unit_length(pick: Pick, x: Form) -> nn.Module:
    return Do(lambda t: F.normalize(t, p=2.0, dim=x.dim, eps=1e-2))


@block("any", plain=False)
def softmax(pick: Pick, x: Form) -> nn.Module:
    dim, log = pick((x.dim, -1)), pick((False, False, True))
    return nn.LogSoftmax(dim) if log else nn.Softmax(dim)


@block("any", plain=False)
def running_sum(pick: Pick, x: Form) -> nn.Module:
    return Do(lambda t: t.cumsum(x.dim) * 0.3)


@block("any", plain=False)
def centred(pick: Pick, x: Form) -> nn.Module:
    """What is left of each channel when a statistic over all of them is taken off."""
    how = pick(("mean", "amax", "logsumexp", "norm", "sum", "max", "std"))
    axis = x.axis(pick)
    reduce = {
        "mean": lambda t: t.mean(axis, keepdim=True),
        "amax": lambda t: t.amax(axis, keepdim=True),
        "logsumexp": lambda t: t.logsumexp(axis, keepdim=True),
        "norm": lambda t: t.norm(dim=axis, keepdim=True),
        "sum": lambda t: 0.1 * t.sum(axis, keepdim=True),
        "max": lambda t: t.max(axis, keepdim=True)[0],
        "std": lambda t: t.var(axis, keepdim=True, unbiased=False).add(1e-2).sqrt(),
    }[how]
    return Do(lambda t: t - reduce(t))


@block("map", plain=False)
def spatial_gate(pick: Pick, x: Form) -> nn.Module:
    """Mean and maximum over the channels, through a convolution, as a gate (CBAM)."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(x.space)]

    def forward(t: Tensor, layer: nn.Module) -> Tensor:
        both = torch.cat([t.mean(1, keepdim=True), t.amax(1, keepdim=True)], 1)
        return t * layer(both).sigmoid()

    return Do(forward, kind(2, 1, 3, padding=1))


@block("map", plain=False)
def response_norm(pick: Pick, x: Form) -> nn.Module:
    """Global response norm: lengths over space, relative to their mean over the channels."""
    over = tuple(range(2, x.rank))

    def forward(t: Tensor, w: Tensor) -> Tensor:
        length = t.norm(dim=over, keepdim=True)
        return t + w * t * (length / (length.mean(1, keepdim=True) + 1e-2))

    return Do(forward, weight(*x.along(x.c)))


@block("map", plain=False)
def local_response_norm(pick: Pick, x: Form) -> nn.Module:
    return nn.LocalResponseNorm(3)


@block("map")
def over_space(pick: Pick, x: Form) -> nn.Module:
    """Statistics of each channel by itself."""
    over, how = tuple(range(2, x.rank)), pick(("mean", "amax", "softmax", "var"))
    if how == "softmax":
        return Do(lambda t: t.flatten(2).softmax(-1).view(t.shape))
    if how == "var":
        return Do(lambda t: t / (t.var(over, keepdim=True) + 0.1).sqrt())
    if how == "amax":
        return Do(lambda t: t - t.amax(over, keepdim=True))
    return Do(lambda t: t - t.mean(over, keepdim=True))
