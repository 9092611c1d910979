"""Several processes compute what one would: batch norm's statistics, and values of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Summed(torch.autograd.Function):
    """The sum over all processes, through which gradients flow to each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Of the values."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Of the gradients: every process's loss has used the sum."""
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


def processes() -> int:
    """How many run together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """The sum over all processes."""
    return x if processes() == 1 else _Summed.apply(x)  # type: ignore[return-value]


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, which have equally many: [n, ...] -> [processes x n, ...]."""
    count = processes()
    if count == 1:
        return x
    whole = x.new_zeros(count, *x.shape)
    place = torch.zeros(count, *[1] * x.dim(), dtype=x.dtype, device=x.device)
    place[dist.get_rank()] = 1
    return summed(whole + place * x).flatten(0, 1)


class WholeBatch(TorchFunctionMode):
    """Inside, batch norm in training takes its statistics over the batches of all processes.

    SyncBatchNorm does so for modules on GPUs; this does for a program's ops, and on CPUs.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of torch passes here; a batch norm that trains is computed over all."""
        kwargs = kwargs or {}
        training = _NORMS.get(func)
        if training is None or processes() == 1:
            return func(*args, **kwargs)
        call = dict(zip(training, args, strict=False)) | kwargs
        if not call.get("training", call.get("use_input_stats")):
            return func(*args, **kwargs)
        return _normed(call)


_FUNCTIONAL = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "training",
    "momentum",
    "eps",
)
_PLAIN = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_NORMS: dict[Any, tuple[str, ...]] = {
    torch.nn.functional.batch_norm: _FUNCTIONAL,
    torch.batch_norm: _PLAIN,
    torch.ops.aten.batch_norm.default: _PLAIN,
}


def _normed(call: dict[str, Any]) -> Tensor:
    x = call["input"]
    channels = x.shape[1]
    wide = x.float().transpose(0, 1).reshape(channels, -1)
    count = wide.shape[1] * processes()
    mean = summed(wide.sum(1)) / count
    # around the mean: the mean of squares less the square of the mean loses digits
    var = summed((wide - mean[:, None]).square().sum(1)) / count
    _remember(call, mean.detach(), var.detach() * count / max(1, count - 1))
    shape = (1, channels, *[1] * (x.dim() - 2))
    eps = call.get("eps", 1e-5)
    out = (x.float() - mean.view(shape)) * (var + eps).rsqrt().view(shape)
    weight, bias = call.get("weight"), call.get("bias")
    out = out if weight is None else out * weight.view(shape)
    out = out if bias is None else out + bias.view(shape)
    return out.to(x.dtype)


@torch.no_grad()
def _remember(call: dict[str, Any], mean: Tensor, var: Tensor) -> None:
    for name, value in (("running_mean", mean), ("running_var", var)):
        if call.get(name) is not None:
            call[name].lerp_(value.to(call[name].dtype), call.get("momentum", 0.1))
