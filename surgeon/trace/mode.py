"""How surgeon runs a forward: as plain ops, without gradients, caches or compiled code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from surgeon.trace.caches import caches_off
from surgeon.trace.memoised import nothing_kept
from surgeon.trace.modules import modules_of

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]  a property to type checkers


@contextmanager
def forward_mode(model: nn.Module, fused: bool = False) -> Iterator[None]:
    """How surgeon runs a forward: no gradients, no caches, and the plain ops below autograd, which inference mode
    would leave undecomposed. fused: scaled_dot_product_attention as torch chooses, quicker in float64."""
    plainly = (
        caches_off(model),
        plain_attention(fused),
        plain_flex_attention(),
        plain_recurrence(model),
        uncompiled(),
    )
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        for context in plainly:
            stack.enter_context(context)
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """What torch.compile wraps runs as it was written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile")  # of the hooks that name modules
        yield


@contextmanager
def plain_recurrence(model: nn.Module) -> Iterator[None]:
    """Recurrent layers as their plain ops, not as one op of oneDNN or cuDNN for all the steps; without them
    convolutions keep these libraries' speed."""
    if not any(isinstance(m, nn.RNNBase) for m in modules_of(model)):
        yield
        return
    # torch.backends' own flags() touch TF32 too, which warns
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])


@contextmanager
def plain_attention(fused: bool = False) -> Iterator[None]:
    """Attention as its plain ops, not as one fused op that eval mode or real tensors may choose; modules of torch that hold
    all of it (nn.MultiheadAttention) never as one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with nullcontext() if fused else sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def plain_flex_attention() -> Iterator[None]:
    """`flex_attention` as the plain ops that torch says it stands for: no dispatch mode sees it else."""
    flex = sys.modules.get("torch.nn.attention.flex_attention")
    if flex is None:
        yield
        return
    names = vars(flex)
    before = {name: names[name] for name in _FLEX if name in names}
    names.update({name: _FLEX[name] for name in before})
    try:
        yield
    finally:
        names.update(before)


def _flex_attention(query: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ...]:
    """As torch computes it without a kernel; laid out as the query is, in ops that have rules."""
    from torch._higher_order_ops.flex_attention import math_attention

    out, *more = math_attention(query, *args, **options)
    order = sorted(range(out.dim()), key=query.stride, reverse=True)
    back = [order.index(dim) for dim in range(out.dim())]
    return out.permute(order).contiguous().permute(back), *more


# what torch's own function calls: the op, and what refuses tensors without numbers
_FLEX = {"flex_attention_hop": _flex_attention, "_validate_device": lambda *_: None}


@contextmanager
def exporting() -> Iterator[None]:
    """Around torch.export: `t.data` is an op there, and no function goes on with what it makes."""
    with nothing_kept(), DataDetached():
        yield


class DataDetached(TorchFunctionMode):
    """`t.data` read as `t.detach()`: the same numbers in the same memory, and no gradient.

    torch.export sees no op in the one, takes what it gives for a constant, and refuses it.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return args[0].detach() if func == _DATA else func(*args, **(kwargs or {}))
