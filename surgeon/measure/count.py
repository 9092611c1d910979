"""Parameters, bytes, FLOPs and MACs of a network, counted per example from one traced forward.

The count is fvcore's, and its convention: **one multiply-add is one FLOP**, and dim 0 of the inputs
is the batch, which is counted as one. What fvcore lacks is added in the same spirit, so that an op
counts the same whether it is seen whole here or decomposed into ATen ops by a recorder:

    op                                  FLOPs                                            MACs too
    conv 1/2/3-D, any groups, padding   batch * prod(weight.shape) * prod(OUTPUT spatial)   yes
    transposed conv                     batch * prod(weight.shape) * prod(INPUT spatial)    yes
    deform_conv2d *                     as conv                                             yes
    linear, addmm, mm, bmm, matmul      prod(output.shape) * contracted extent (no bias)    yes
    baddbmm, addbmm, mv, dot, tensordot,
        inner, bilinear *               one per multiply-add of the product                 yes
    einsum *                            the bmm calls torch makes of it; none contracted: 0 yes
    scaled_dot_product_attention *      heads * L * S * (D + Dv), the two products          yes
    lstm, gru, rnn *                    steps * batch * numel of all weight matrices        yes
    _grouped_mm, grouped_mm_fallback *  as matmul, each row times one matrix                yes
    batch_norm, running statistics      2 * numel affine, 1 * numel plain                   no
    batch_norm, batch statistics,
        instance, group, layer norm     5 * numel affine, 4 * numel plain                   no
    rms_norm *                          1 * numel (its mean, as when decomposed)            no
    adaptive_avg_pool (1-D, 3-D *),
        mean *                          1 * INPUT numel                                     no
    upsample, per OUTPUT element        nearest 1, linear * 2, bilinear 4, trilinear * 8,
                                        bicubic * 16                                        no
    grid_sampler                        4 * OUTPUT numel                                    no
    all else known: pointwise, softmax, sum, var, norm, max, avg_pool, max_pool,
        adaptive_max_pool, embedding, indexing, movement: 0

    * not in fvcore 0.1.5, or counted otherwise there: its einsum is rounded to four digits, and its
      matmul leaves out the batch of a second operand that is broadcast against

An op of no line above counts 0 and is named in `Flops.uncounted`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from surgeon.errors import BadInput
from surgeon.measure.runtime import arguments, evaluating, named_tensors
from surgeon.quiet import quiet

with quiet():  # fvcore scripts a loss as it is imported, which torch deprecates
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import (
        batchnorm_flop_jit,
        conv_flop_jit,
        elementwise_flop_counter,
        get_shape,
    )

Values = list[Any]  # of torch._C.Value, which has no public type
Handle = Callable[[Values, Values], Any]


@dataclass(frozen=True)
class Flops:
    """FLOPs of one example; `total` includes `macs`, the share of convolutions and matrix products.

    `by_module` holds every module of the model by its path, the model itself as "", each with
    what runs inside it. `uncounted` names the ops that no rule counts (`aten::fft_rfft`).
    """

    total: int
    macs: int
    by_module: dict[str, int]
    uncounted: tuple[str, ...]


def parameters(model: nn.Module) -> int:
    """How many numbers the parameters hold; a parameter used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def state_bytes(model: nn.Module) -> int:
    """Bytes of `state_dict()`, parameters and persistent buffers; shared storage counts once."""
    seen: dict[tuple[int, int], int] = {}
    for index, tensor in enumerate(model.state_dict().values()):
        if not isinstance(tensor, Tensor):
            continue
        address = 0 if tensor.is_meta else tensor.data_ptr()
        # what has no address (meta, empty) is its own
        seen[(address, tensor.numel()) if address else (0, -index)] = (
            tensor.numel() * tensor.element_size()
        )
    return sum(seen.values())


def flops(model: nn.Module, inputs: Any) -> Flops:
    """Count one forward of `model` in eval mode, per example.

    `inputs` is a tensor, a sequence of arguments or a mapping of keyword arguments, nested as the
    forward takes it. If all input tensors share dim 0, that is the batch: the forward is traced with
    one example; if it does not run with one, the count of all is divided. The model is left as it
    was. Raises BadInput with the model's own error if the forward fails.
    """
    flat, spec = pytree.tree_flatten(arguments(inputs))
    device = next((p.device for p in model.parameters()), None)
    flat = [x.to(device) if isinstance(x, Tensor) and device is not None else x for x in flat]
    batch = _shared_batch(flat)
    if batch > 1:
        one = [x[:1] if isinstance(x, Tensor) else x for x in flat]
        with contextlib.suppress(BadInput):
            return _count(_Traced(model, one, spec))
    traced = _Traced(model, flat, spec)
    counted = _count(traced)
    # an input without a batch, [C, H, W], looks like a batch of C, but its outputs do not
    return _divided(counted, batch) if batch > 1 and traced.lead == {batch} else counted


def _shared_batch(flat: list[Any]) -> int:
    """The extent of dim 0 that all tensors of a flat list share, 0 if they do not."""
    extents = {x.shape[0] if x.ndim else 0 for x in flat if isinstance(x, Tensor)}
    return extents.pop() if len(extents) == 1 else 0


class _Traced(nn.Module):
    """The model as the tracer wants it: tensors in, tensors out, whatever the model takes and gives."""

    def __init__(self, model: nn.Module, flat: list[Any], spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.model = model
        self.training = False
        self.lead: set[int] = set()  # extents of dim 0 among the outputs
        self._flat = flat
        self._spec = spec
        self._places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self._flat[place] for place in self._places)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        flat = list(self._flat)
        for place, tensor in zip(self._places, tensors, strict=True):
            flat[place] = tensor
        args, kwargs = pytree.tree_unflatten(flat, self._spec)
        outputs = tuple(x for _, x in named_tensors(self.model(*args, **kwargs)))
        self.lead = {int(x.shape[0]) if x.ndim else -1 for x in outputs}
        return outputs


def _count(traced: _Traced) -> Flops:
    failed: set[str] = set()
    analysis = FlopCountAnalysis(traced, traced.tensors())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none").clear_op_handles()
    handles: dict[str, Handle | None] = {op: _guarded(op, h, failed) for op, h in _HANDLES.items()}
    analysis.set_op_handle(**handles)
    try:
        with _undisturbed(traced), torch.no_grad():
            by_module_and_op = analysis.by_module_and_operator()
    except Exception as error:
        if odd := next((path for path, _ in traced.model.named_modules() if "/" in path), None):
            raise BadInput(
                f"FLOPs cannot be counted where a module's name holds a slash ({odd})",
                "rename it",
            ) from error
        raise _uncountable(traced, error) from error
    unknown = {op for op in analysis.unsupported_ops() if not _is_free(op)}
    counts = by_module_and_op["model"]
    return Flops(
        total=int(sum(counts.values())),
        macs=int(counts["macs"]),
        by_module={
            path.removeprefix("model").removeprefix("."): int(sum(ops.values()))
            for path, ops in by_module_and_op.items()
            if path
        },
        uncounted=tuple(sorted(unknown | failed)),
    )


def _uncountable(traced: _Traced, error: Exception) -> BadInput:
    """Why there is no count: the forward's own error, or that of what traces it."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    try:
        with evaluating(traced), quiet(), torch.no_grad():
            traced(*traced.tensors())
    except Exception:  # noqa: BLE001  whatever the forward raises
        return BadInput(f"the model's forward fails: {cause}", "check the input shapes (--input)")
    return BadInput(
        f"FLOPs cannot be counted: torch.jit.trace refuses the forward: {cause}",
        "surgeon.shrink(..., measure=False) cuts and proves without counting",
    )


def _divided(counted: Flops, batch: int) -> Flops:
    return Flops(
        total=counted.total // batch,
        macs=counted.macs // batch,
        by_module={path: count // batch for path, count in counted.by_module.items()},
        uncounted=counted.uncounted,
    )


@contextlib.contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Trace in eval mode, in silence, without fused attention kernels, and leave no trace.

    fvcore forgets its hooks on the modules when the forward fails.
    """
    hooks = [
        (module, dict(module._forward_pre_hooks), dict(module._forward_hooks))
        for module in model.modules()
    ]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides its matrix products in one op
    try:
        with evaluating(model), quiet():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, before, after in hooks:
            _restore(module._forward_pre_hooks, before)
            _restore(module._forward_hooks, after)


def _restore(hooks: dict[int, Any], earlier: dict[int, Any]) -> None:
    for key in set(hooks) - set(earlier):
        del hooks[key]


def _guarded(op: str, handle: tuple[str, Handle], failed: set[str]) -> Handle:
    """Sort counts into "macs" and "other"; an op whose shapes are unknown is named, not fatal."""
    kind, count = handle

    def counted(inputs: Values, outputs: Values) -> Counter[str]:
        try:
            found = count(inputs, outputs)
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            failed.add(op)
            return Counter()
        total = sum(found.values()) if isinstance(found, Counter) else found
        return Counter({kind: int(total)})

    return counted


def _is_free(op: str) -> bool:
    name = op.removeprefix("aten::")
    return name in _FREE or (name.endswith("_") and name[:-1] in _FREE)


def _product(left: int, right: int) -> Handle:
    """A matrix product of the operands at these places, batched and broadcast as matmul does."""

    def count(inputs: Values, outputs: Values) -> int:
        return prod(_shape(outputs[0])) * _shape(inputs[left])[-1]

    return count


def _addbmm(inputs: Values, outputs: Values) -> int:
    return prod(_shape(inputs[1])) * _shape(inputs[2])[-1]


def _convolution_mode(inputs: Values, outputs: Values) -> int:
    out = _shape(outputs[0])
    return out[0] * prod(_shape(inputs[1])) * prod(out[2:])


def _tensordot(inputs: Values, outputs: Values) -> int:
    left, contracted = _shape(inputs[0]), inputs[2].node().inputs()
    return prod(_shape(outputs[0])) * prod(left[dim.toIValue()] for dim in contracted)


def _bilinear(inputs: Values, outputs: Values) -> int:
    return prod(_shape(inputs[0])[:-1]) * prod(_shape(inputs[2]))


def _einsum(inputs: Values, outputs: Values) -> int:
    """Runs it on shapes alone and counts the matrix products that torch makes of it."""
    operands = [torch.empty(_shape(value), device="meta") for value in inputs[1].node().inputs()]
    with FlopCounterMode(display=False) as counter:
        torch.einsum(inputs[0].toIValue(), *operands)
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _attention(inputs: Values, outputs: Values) -> int:
    query, key, value = (_shape(x) for x in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(inputs: Values, outputs: Values) -> int:
    """lstm, gru and rnn, padded or packed: each weight matrix meets every step of every sequence.

    The weights are the matrices in the op's tensor lists; its states have three dimensions.
    """
    lists = (value.node() for value in inputs if value.node().kind() == "prim::ListConstruct")
    shapes = [get_shape(item) for node in lists for item in node.inputs() if _is_tensor(item)]
    weights = sum(prod(shape) for shape in shapes if shape is not None and len(shape) == 2)
    return prod(_shape(inputs[0])[:-1]) * weights


def _norm(affine: int) -> Handle:
    """fvcore's estimate, five per element with an affine weight and four without, of any rank."""

    def count(inputs: Values, outputs: Values) -> int:
        has_weight = _is_tensor(inputs[affine])
        return prod(_shape(inputs[0])) * (5 if has_weight else 4)

    return count


def _is_tensor(value: Any) -> bool:
    return value.isCompleteTensor()


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    if shape is None:
        raise ValueError("the tracer does not know this shape")
    return shape


def _per_output(factor: int) -> tuple[str, Handle]:
    return "other", elementwise_flop_counter(0, factor)


_PER_INPUT: tuple[str, Handle] = ("other", elementwise_flop_counter(1, 0))

_HANDLES: dict[str, tuple[str, Handle]] = {
    "aten::_convolution": ("macs", conv_flop_jit),
    "aten::_convolution_mode": ("macs", _convolution_mode),
    "torchvision::deform_conv2d": ("macs", _convolution_mode),
    "aten::linear": ("macs", _product(0, 1)),
    "aten::matmul": ("macs", _product(0, 1)),
    "aten::mm": ("macs", _product(0, 1)),
    "aten::bmm": ("macs", _product(0, 1)),
    "aten::_grouped_mm": ("macs", _product(0, 1)),
    "transformers::grouped_mm_fallback": ("macs", _product(0, 1)),
    "aten::mv": ("macs", _product(0, 1)),
    "aten::dot": ("macs", _product(0, 1)),
    "aten::inner": ("macs", _product(0, 1)),
    "aten::addmm": ("macs", _product(1, 2)),
    "aten::addmv": ("macs", _product(1, 2)),
    "aten::baddbmm": ("macs", _product(1, 2)),
    "aten::addbmm": ("macs", _addbmm),
    "aten::tensordot": ("macs", _tensordot),
    "aten::bilinear": ("macs", _bilinear),
    "aten::einsum": ("macs", _einsum),
    "aten::scaled_dot_product_attention": ("macs", _attention),
    **{f"aten::{op}": ("macs", _recurrent) for op in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "aten::batch_norm": ("other", batchnorm_flop_jit),
    "aten::instance_norm": ("other", _norm(1)),
    "aten::group_norm": ("other", _norm(2)),
    "aten::layer_norm": ("other", _norm(2)),
    "aten::rms_norm": _PER_INPUT,
    "aten::mean": _PER_INPUT,
    **{f"aten::adaptive_avg_pool{rank}d": _PER_INPUT for rank in (1, 2, 3)},
    **{f"aten::upsample_nearest{rank}d": _per_output(1) for rank in (1, 2, 3)},
    **{f"aten::_upsample_nearest_exact{rank}d": _per_output(1) for rank in (1, 2, 3)},
    "aten::upsample_linear1d": _per_output(2),
    "aten::upsample_bilinear2d": _per_output(4),
    "aten::_upsample_bilinear2d_aa": _per_output(4),
    "aten::upsample_trilinear3d": _per_output(8),
    "aten::upsample_bicubic2d": _per_output(16),
    "aten::_upsample_bicubic2d_aa": _per_output(16),
    "aten::grid_sampler": _per_output(4),
}

# Zero by the convention, in place or not. An op of no list is named as uncounted.
_FREE_OPS = """
    abs acos acosh adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addcdiv
    addcmul adjoint affine_grid_generator alias all alpha_dropout amax amin aminmax __and__
    angle any arange argmax argmin argsort as_strided asin asinh atan atan2 atanh avg_pool1d
    avg_pool2d avg_pool3d bartlett_window bernoulli binary_cross_entropy
    binary_cross_entropy_with_logits bincount bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor blackman_window Bool bool broadcast_tensors
    broadcast_to bucketize _cast_Float _cast_Long cat cauchy ceil ceil_divide celu
    channel_shuffle chunk clamp clamp_max clamp_min clone col2im complex concat _conj
    constant_pad_nd contiguous copy cos cosh cosine_similarity count_nonzero cross
    cross_entropy_loss cummax cummin cumprod cumsum deg2rad detach device diag diag_embed
    diagonal diff digamma dim dist div divide dropout dstack dtype elu embedding embedding_bag
    empty empty_like eq erf erfc erfinv exp exp2 expand expand_as expm1 exponential eye
    fake_quantize_per_tensor_affine_cachemask feature_alpha_dropout feature_dropout
    fft_fftfreq fft_rfftfreq fill flatten flip fliplr flipud Float float FloatImplicit floor
    floor_divide fmod frac frobenius_norm full full_like gather ge gelu geometric __getitem__
    glu greater greater_equal gt half hamming_window hann_window hardshrink hardsigmoid
    hardswish hardtanh heaviside histc hstack huber_loss hypot i0 igamma igammac im2col imag
    index index_add index_copy index_fill index_put index_reduce index_select Int int
    IntImplicit _is_all_true _is_any_true is_floating_point is_nonzero isfinite isin isinf
    isnan isneginf isposinf item kaiser_window kl_div kthvalue l1_loss ldexp le leaky_relu len
    lerp less less_equal lgamma lift lift_fresh linalg_cross linalg_norm linalg_vector_norm
    linspace log log10 log1p log2 log_normal log_sigmoid _log_softmax log_softmax logaddexp
    logaddexp2 logical_and logical_not logical_or logical_xor logit logspace logsumexp
    __lshift__ lt masked_fill masked_scatter masked_select max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum median meshgrid mH min minimum mish mode moveaxis movedim
    mse_loss mT mul multiply mvlgamma nan_to_num nanmean nanmedian nansum narrow
    native_channel_shuffle ne neg _neg_view negative new_empty new_full new_ones new_zeros
    nextafter nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward nll_loss_nd nonzero norm
    normal __not__ not_equal numel numpy_T one_hot ones ones_like __or__ outer
    _pack_padded_sequence pad _pad_packed_sequence pairwise_distance permute pixel_shuffle
    pixel_unshuffle poisson polar polygamma positive pow prelu prod rad2deg rand rand_like
    randint randint_like randn randn_like random randperm range ravel real reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as
    _reshape_from_tensor resolve_conj resolve_neg rms_norm roll rot90 round rrelu
    rrelu_with_noise __rshift__ rsqrt rsub scalar_tensor ScalarImplicit scatter scatter_add
    scatter_reduce searchsorted select select_scatter selu set sgn _shape_as_tensor sigmoid sign
    signbit silu sin sinc sinh size slice slice_scatter smooth_l1_loss soft_margin_loss
    _softmax softmax softmin softplus softshrink sort special_bessel_j0 special_bessel_j1
    special_entr special_erfcx special_i0e special_i1 special_i1e special_log_ndtr
    special_modified_bessel_i0 special_modified_bessel_i1 special_ndtri special_xlog1py
    special_zeta split split_with_sizes sqrt square squeeze stack std std_mean sub subtract
    sum swapaxes swapdims t take take_along_dim tan tanh tensor tensor_split threshold tile to
    topk trace transpose tril tril_indices triu triu_indices true_divide trunc type_as unbind
    unflatten unfold uniform unique _unique2 unique_consecutive unique_dim unsafe_chunk
    unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze var var_mean view view_as
    view_as_complex view_as_real vstack _weight_norm where xlogy __xor__ zero zeros zeros_like
"""
_FREE = frozenset(_FREE_OPS.split())
