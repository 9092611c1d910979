"""What every size argument becomes after a cut.

`RESIZE` says, op by op, which arguments hold sizes or positions and what they must be on the smaller
tensors. Program surgery writes these arguments; module surgery is accepted only where the user's own
forward computes the very same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from surgeon.axes import size_of
from surgeon.cut.sizes import Call, Numbers, Positions, Scaled, Sizes
from surgeon.distinct import distinct
from surgeon.rules.backward import UPSAMPLED
from surgeon.rules.strided import new_strides
from surgeon.rules.windows import NEAREST

Ids = NDArray[np.int64]
Resizer = Callable[[Call, Sizes], Call]
RESIZE: dict[str, Resizer] = {}


def _resizes(*ops: str) -> Callable[[Resizer], Resizer]:
    def register(function: Resizer) -> Resizer:
        for op in ops:
            RESIZE[op if "." in op else f"aten.{op}"] = function
        return function

    return register


def resize(call: Call, sizes: Sizes) -> Call:
    """The call as it must be on the cut tensors."""
    packet = call.op.rsplit(".", 1)[0]
    resizer = RESIZE.get(packet) or RESIZE.get(packet.rstrip("_"))
    return resizer(call, sizes) if resizer else call


def _fill(asked: Sequence[Any], shape: Sequence[int], old: Sequence[int]) -> list[Any]:
    """Sizes written in the code replaced by the new ones, computed ones scaled; -1 stays."""
    return [_filled(a, n, o) for a, n, o in zip(asked, shape, old, strict=True)]


def _filled(asked: Any, new: int, old: int) -> Any:
    if type(asked) is int:
        return asked if asked == -1 else new
    return asked if new == old else Scaled(asked, new, old)


@_resizes(
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
)
def _shape_second(call: Call, sizes: Sizes) -> Call:
    out = call.outputs[0]
    if not isinstance(call.args[1], (list, tuple)):
        return call  # the same bits as another dtype
    return call.put(1, _fill(call.args[1], sizes.shape(out), out.shape))


@_resizes("zeros", "ones", "full", "empty", "rand", "randn")
def _shape_first(call: Call, sizes: Sizes) -> Call:
    out = call.outputs[0]
    return call.put(0, _fill(call.args[0], sizes.shape(out), out.shape))


@_resizes("as_strided")
def _as_strided(call: Call, sizes: Sizes) -> Call:
    """Of a tensor without gaps; the same in another memory format keeps what it was given."""
    assert call.x is not None
    new, out = sizes.shape(call.x), call.outputs[0]
    if new == call.x.shape or not all(type(n) is int for n in (*call.args[1], *call.args[2])):
        return call
    stride = new_strides(call.x, call.args[1], call.args[2], new)
    return call.put(1, list(sizes.shape(out))).put(2, stride)


@_resizes("arange", "range")
def _positions(call: Call, sizes: Sizes) -> Call:
    """Numbers that differ by position: those of the positions that stay, as they were."""
    kept = sizes.kept(call.outputs[0], 0)
    if len(kept) == call.outputs[0].shape[0] or not all(type(x) is int for x in call.args):
        return call
    dtype = {k: v for k, v in call.kwargs.items() if k == "dtype"}
    numbers = call.nodes[0].target(*call.args, **dtype)[torch.from_numpy(kept)]
    return Call("aten.clone.default", (Numbers(numbers),), {}, call.x, call.outputs, call.nodes)


@_resizes("eye")
def _eye(call: Call, sizes: Sizes) -> Call:
    """(rows), or (rows, columns)."""
    new, old = sizes.shape(call.outputs[0]), call.outputs[0].shape
    count = sum(not isinstance(arg, bool) for arg in call.args[:2])
    return replace(
        call, args=(*_fill(call.args[:count], new[:count], old[:count]), *call.args[count:])
    )


@_resizes("expand")
def _expand(call: Call, sizes: Sizes) -> Call:
    out = call.outputs[0]
    return call.put(1, _fill(call.args[1], sizes.shape(out), out.shape))


@_resizes("repeat", "tile")
def _repeat(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    out, asked = call.outputs[0], call.args[1]
    new = _repeats(sizes.shape(call.x), sizes.shape(out))[-len(asked) :]
    return call.put(1, _fill(asked, new, _repeats(call.x.shape, out.shape)[-len(asked) :]))


def _repeats(x: Sequence[int], out: Sequence[int]) -> list[int]:
    """How often each dimension of `out` holds that of `x`, which may lack leading ones; an empty one once."""
    x = (*(1,) * (len(out) - len(x)), *x)
    return [n // m if m else 1 for n, m in zip(out, x, strict=True)]


@_resizes("repeat_interleave")
def _repeat_interleave(call: Call, sizes: Sizes) -> Call:
    """The copies are an axis of their own, which may be cut."""
    dim = call.arg(2, call.kwargs.get("dim"))
    if call.x is None or type(call.arg(1)) is not int or dim is None:
        return call
    length = sizes.shape(call.outputs[0])[dim]
    new = call.put(1, length // sizes.shape(call.x)[dim])
    if new.kwargs.get("output_size") is not None:
        new = replace(new, kwargs={**new.kwargs, "output_size": length})
    return new


@_resizes("unflatten")
def _unflatten(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    dim = call.args[1] % len(call.x.shape)
    count = len(call.args[2])
    out = call.outputs[0]
    new, old = sizes.shape(out)[dim : dim + count], out.shape[dim : dim + count]
    return call.put(2, _fill(call.args[2], new, old))


@_resizes("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
def _split(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    dim = call.arg(2, call.kwargs.get("dim", 0)) % len(call.x.shape)
    if len(sizes.kept(call.x, dim)) == call.x.shape[dim]:
        return call
    new = [sizes.shape(out)[dim] for out in call.outputs]
    args = (call.args[0], new, dim)
    return Call("aten.split_with_sizes.default", args, {}, call.x, call.outputs, call.nodes)


@_resizes("tensor_split")
def _tensor_split(call: Call, sizes: Sizes) -> Call:
    """Slices at written positions: torch runs it as slices, and so it must stay."""
    new = _split(call, sizes)
    if new is call:
        return call
    ends = np.cumsum(new.args[1][:-1]).tolist()
    args = (call.args[0], ends, new.args[2])
    return Call("aten.tensor_split.indices", args, {}, call.x, call.outputs, call.nodes)


@_resizes("slice", "narrow")
def _slice(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    dim = call.arg(1, 0) % len(call.x.shape)
    size = call.x.shape[dim]
    if len(sizes.kept(call.x, dim)) == size:
        return call
    if "narrow" in call.op:
        index = np.arange(call.args[2], call.args[2] + call.args[3])
    else:
        index = np.arange(size)[slice(call.arg(2), call.arg(3), call.arg(4, 1))]
        if not len(index) and type(start := call.arg(2)) is int and start >= size:
            return call.put(
                2, len(sizes.kept(call.x, dim))
            )  # from the end on: nothing is left over
    new = _taking(call, dim, sizes.taken(call.x, dim, index))
    to_the_end = type(call.arg(3)) is int and call.args[3] >= size
    if "slice" in call.op and "slice" in new.op and to_the_end and _is_last(new, sizes):
        new = new.put(3, call.args[3])  # to the end stays to the end
    return new


def _is_last(call: Call, sizes: Sizes) -> bool:
    """Whether one more step of a slice would leave the cut tensor."""
    assert call.x is not None
    return call.args[3] - 1 + call.arg(4, 1) >= sizes.shape(call.x)[call.args[1]]


def _taking(call: Call, dim: int, index: Ids) -> Call:
    """A slice where the positions are a run, else a constant gather."""
    x = (call.args[0], dim)
    steps = distinct(np.diff(index))
    if len(index) and len(steps) <= 1 and (not len(steps) or steps[0] > 0):
        step = int(steps[0]) if len(steps) else 1
        start = int(index[0]) if len(index) else 0
        args = (*x, start, start + (len(index) - 1) * step + 1, *((step,) if step != 1 else ()))
        return Call("aten.slice.Tensor", args, {}, call.x, call.outputs, call.nodes)
    args = (*x, Positions(tuple(index.tolist())))
    return Call("aten.index_select.default", args, {}, call.x, call.outputs, call.nodes)


@_resizes("select")
def _select(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    dim = call.args[1] % len(call.x.shape)
    index = np.array([call.args[2] % call.x.shape[dim]])
    new = sizes.taken(call.x, dim, index)
    if type(call.args[2]) is not int or len(sizes.kept(call.x, dim)) == call.x.shape[dim]:
        return call
    return call.put(2, int(new[0])) if len(new) else call  # gone, where only its shape is asked


@_resizes("roll")
def _roll(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    shifts, over = call.args[1], call.arg(2, ())
    new = []
    for shift, d in zip(shifts, over, strict=False):
        size = call.x.shape[d]
        index = np.roll(np.arange(size), shift)
        taken = sizes.taken(call.x, d % len(call.x.shape), index)
        # a cut rotation is a rotation: the first element says by how much
        new.append(shift if len(taken) == size else int(-taken[0] % len(taken)))
    return call.put(1, new) if over else call


@_resizes("constant_pad_nd", "pad")
def _pad(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    rank, pad = len(call.x.shape), list(call.args[1])
    out = call.outputs[0]
    for k in range(len(pad) // 2):
        d = rank - 1 - k
        before, after = pad[2 * k], pad[2 * k + 1]
        if type(before) is not int or type(after) is not int:
            continue
        x, new = sizes.kept(call.x, d), sizes.kept(out, d)  # negative widths count what is cut off
        pad[2 * k] = int((new < before).sum() - (x < -before).sum())
        pad[2 * k + 1] = int(
            (new >= out.shape[d] - after).sum() - (x >= call.x.shape[d] + after).sum()
        )
    return call.put(1, pad)


@_resizes("squeeze")
def _squeeze(call: Call, sizes: Sizes) -> Call:
    """A dimension cut to one is not one that was there to be squeezed."""
    assert call.x is not None
    shape, new = call.x.shape, sizes.shape(call.x)
    over = call.arg(1)
    asked = range(len(shape)) if over is None else [over] if isinstance(over, int) else over
    if not any(new[d] == 1 != shape[d] for d in asked):
        return call
    dims = [d for d in asked if shape[d] == 1]
    args = (call.args[0], dims)
    return Call("aten.squeeze.dims", args, {}, call.x, call.outputs, call.nodes)


@_resizes("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    each = call.x.shape[1] // call.args[1]
    return call.put(1, len(distinct(sizes.kept(call.x, 1) // each)))


@_resizes("index_select")
def _index_select(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    dim = call.args[1] % len(call.x.shape)
    index = _constant(call, 0)
    if index is None or len(sizes.kept(call.x, dim)) == call.x.shape[dim]:
        return call
    return call.put(2, Positions(tuple(sizes.taken(call.x, dim, index).tolist())))


@_resizes("index")
def _index(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    used = [i for i, v in enumerate(call.args[1]) if v is not None]
    index = _constant(call, 0) if len(used) == 1 else None
    dim = used[0]
    if index is None or len(sizes.kept(call.x, dim)) == call.x.shape[dim]:
        return call
    new: list[Any] = [None] * len(call.args[1])
    new[dim] = Positions(tuple(sizes.taken(call.x, dim, index % call.x.shape[dim]).tolist()))
    return call.put(1, new)


def _constant(call: Call, which: int) -> Ids | None:
    """The positions of an index that is known."""
    found = [
        v for node in call.nodes for v in node.inputs if v.constant is not None and v is not call.x
    ]
    if len(found) <= which or found[which].constant.dim() != 1:
        return None
    return found[which].constant.numpy()


@_resizes("convolution")
def _convolution(call: Call, sizes: Sizes) -> Call:
    return call.put(8, sizes.factor(call.nodes[0], "g"))


@_resizes("torchvision.deform_conv2d")
def _deform_conv(call: Call, sizes: Sizes) -> Call:
    """Groups, and runs of channels with offsets of their own: runs in a group, or groups in a run."""
    groups, runs = call.args[11:13]
    if "g" not in sizes.coupling.bound[call.nodes[0].index]:
        return call
    g, e = (sizes.factor(call.nodes[0], letter) for letter in "ge")
    groups, runs = (g, g * e) if runs % groups == 0 else (g * e, e)
    return call.put(11, groups).put(12, runs)


@_resizes("conv1d", "conv2d", "conv3d", "mkldnn_convolution")
def _conv(call: Call, sizes: Sizes) -> Call:
    return _grouped(call, sizes) if len(call.args) > 6 else call


@_resizes("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(call: Call, sizes: Sizes) -> Call:
    return _grouped(call, sizes) if len(call.args) > 6 else call


def _grouped(call: Call, sizes: Sizes) -> Call:
    """The number of groups, which a program may compute (a kernel for each example: the batch)."""
    dims = sizes.coupling.bound[call.nodes[-1].index]["g"]
    return call.put(6, _filled(call.args[6], sizes.factor(call.nodes[-1], "g"), size_of(dims)))


@_resizes("native_group_norm")
def _native_group_norm(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    batch, channels = sizes.shape(call.x)[:2]
    call = call.put(3, *_fill([call.args[3]], [batch], [batch])).put(4, channels)
    return call.put(6, sizes.factor(call.nodes[0], "g"))


@_resizes("group_norm")
def _group_norm(call: Call, sizes: Sizes) -> Call:
    norm = next(n for n in call.nodes if "group_norm" in n.op)
    return call.put(1, sizes.factor(norm, "g"))


@_resizes("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    return call.put(1, list(sizes.shape(call.x)[-len(call.args[1]) :]))


@_resizes("native_layer_norm_backward")
def _layer_norm_backward(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    return call.put(2, list(sizes.shape(call.x)[-len(call.args[2]) :]))


@_resizes("native_group_norm_backward")
def _group_norm_backward(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    batch, channels = sizes.shape(call.x)[:2]
    call = call.put(5, *_fill([call.args[5]], [batch], [batch])).put(6, channels)
    return call.put(8, sizes.factor(call.nodes[0], "g"))


@_resizes("convolution_backward")
def _convolution_backward(call: Call, sizes: Sizes) -> Call:
    assert call.x is not None
    bias = [sizes.shape(call.x)[1]] if call.args[3] else call.args[3]
    return call.put(3, bias).put(9, sizes.factor(call.nodes[0], "g"))


@_resizes(*NEAREST, *(f"upsample_{kind}_backward" for kind in UPSAMPLED))
def _upsample(call: Call, sizes: Sizes) -> Call:
    """(x, sizes in space or None, scales); backward (gradient, its sizes in space, the input's sizes)"""
    at, out = 1 + ("_backward" in call.op), call.outputs[0]
    if call.args[at] is None:
        return call
    left = len(out.shape) - len(call.args[at])
    return call.put(at, _fill(call.args[at], sizes.shape(out)[left:], out.shape[left:]))


@_resizes("scaled_dot_product_attention")
def _attention(call: Call, sizes: Sizes) -> Call:
    """The default scale is that of the head_dim: the original one stays."""
    assert call.x is not None
    if call.kwargs.get("scale") is not None or sizes.shape(call.x)[-1] == call.x.shape[-1]:
        return call
    kwargs = call.kwargs | {"scale": call.x.shape[-1] ** -0.5}
    return Call(call.op, call.args, kwargs, call.x, call.outputs, call.nodes)
