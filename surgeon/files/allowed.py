"""The ops a stored program may name: tensor in, tensor out, none of them able to touch a file.

A list, not a rule: an op that is missing is refused by name, and is added here once somebody has
looked at it. Left out on purpose: `from_file` (maps a file), `set_` and `resize_` (reach storage
directly), `_unsafe_index`, fractional pooling and the sparse, nested and quantized constructors
(trust their indices), what needs a Storage, a Stream or a Generator, and every `out=` overload.
In-place forms (`relu_`) come with the plain name. Some that trust the sizes they are given are
here because networks need them; `trace/guards.py` checks those each time they run.
"""

import re
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

from surgeon.errors import BadInput

_FAMILIES = {
    "linear maps": """
    linear bilinear matmul mm bmm mv dot vdot inner outer ger addmm addbmm baddbmm addmv addr
    chain_matmul einsum tensordot kron linalg_matmul linalg_multi_dot linalg_vecdot matrix_exp
    convolution _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d embedding embedding_bag one_hot lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention cdist pdist
    cosine_similarity pairwise_distance
    """,
    "norms, dropout, softmax": """
    batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _native_batch_norm_legit_functional instance_norm layer_norm native_layer_norm group_norm
    native_group_norm rms_norm _fused_rms_norm norm renorm _weight_norm _weight_norm_interface
    linalg_vector_norm linalg_norm linalg_matrix_norm dropout native_dropout feature_dropout alpha_dropout
    feature_alpha_dropout softmax _softmax _safe_softmax log_softmax _log_softmax
    """,
    "pooling, resampling, windows": """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
    avg_pool2d avg_pool3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d
    affine_grid_generator im2col col2im unfold pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle pad constant_pad_nd _pad_circular reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    """,
    "activations": """
    relu relu6 leaky_relu prelu _prelu_kernel rrelu elu celu selu gelu silu mish glu hardswish
    hardsigmoid hardtanh hardshrink softshrink softplus log_sigmoid sigmoid logit tanh threshold
    """,
    "pointwise": """
    add sub subtract rsub mul multiply div divide true_divide floor_divide remainder fmod pow
    float_power neg negative abs absolute sign sgn square sqrt rsqrt reciprocal exp exp2 expm1 log
    log2 log10 log1p logaddexp logaddexp2 xlogy sin cos tan asin acos atan atan2 sinh cosh asinh
    acosh atanh sinc erf erfc erfinv lgamma digamma special_expit special_xlog1py special_log_ndtr
    special_entr special_i0 i0 floor ceil round trunc fix frac clamp clamp_min clamp_max clip lerp addcmul
    addcdiv maximum minimum fmax fmin hypot copysign ldexp heaviside nan_to_num where deg2rad
    rad2deg eq ne lt le gt ge equal not_equal less less_equal greater greater_equal isnan isinf
    isfinite isclose logical_and logical_or logical_xor logical_not bitwise_and bitwise_or
    bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__
    __rshift__ masked_fill
    """,
    "reductions and orders": """
    sum nansum mean nanmean prod max min amax amin aminmax argmax argmin all any std var std_mean
    var_mean median nanmedian mode logsumexp logcumsumexp cumsum cumprod cummax cummin count_nonzero
    topk sort argsort msort kthvalue searchsorted bucketize unique_consecutive _unique2 bincount
    diff trace nonzero isin
    """,
    "losses": """
    mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy
    binary_cross_entropy_with_logits cross_entropy_loss nll_loss nll_loss2d nll_loss_nd
    nll_loss_forward nll_loss2d_forward kl_div poisson_nll_loss cosine_embedding_loss
    triplet_margin_loss margin_ranking_loss hinge_embedding_loss
    """,
    "shape and movement": """
    view _unsafe_view reshape view_as reshape_as flatten unflatten squeeze unsqueeze permute
    transpose t swapaxes swapdims movedim moveaxis numpy_T mT mH adjoint expand expand_as
    broadcast_to broadcast_tensors repeat repeat_interleave tile flip fliplr flipud roll rot90 cat
    concat concatenate stack hstack vstack dstack column_stack split split_with_sizes chunk
    tensor_split hsplit vsplit dsplit unsafe_split unsafe_split_with_sizes unsafe_chunk unbind
    slice select narrow diagonal as_strided index index_select gather take take_along_dim
    masked_select index_put index_add index_copy index_fill scatter scatter_add scatter_reduce
    masked_scatter select_scatter slice_scatter diagonal_scatter diag diag_embed diagflat tril triu
    tril_indices triu_indices block_diag meshgrid cartesian_prod combinations atleast_1d
    atleast_2d atleast_3d ravel alias clone contiguous detach lift_fresh lift_fresh_copy to
    _to_copy type_as copy fill zero item _local_scalar_dense
    sym_size sym_numel sym_stride sym_storage_offset sym_is_contiguous
    """,
    "made from nothing, and random": """
    zeros ones full empty arange linspace logspace eye scalar_tensor zeros_like ones_like
    full_like empty_like new_zeros new_ones new_full new_empty empty_strided new_empty_strided
    empty_permuted hann_window hamming_window bartlett_window blackman_window kaiser_window rand
    randn randint randperm rand_like randn_like randint_like bernoulli normal uniform exponential
    log_normal cauchy geometric random multinomial
    """,
    "complex numbers, spectra, small linear algebra": """
    complex polar real imag view_as_real view_as_complex _conj conj resolve_conj conj_physical
    angle fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
    fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift stft istft cross linalg_cross
    linalg_inv linalg_solve linalg_svd linalg_qr linalg_eigh linalg_cholesky det inverse
    slogdet linalg_det linalg_slogdet logdet
    """,
}
_ATEN = frozenset(name for names in _FAMILIES.values() for name in names.split())
_TORCHVISION = frozenset(
    {"nms", "roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"}
)
_LISTS = {"aten": _ATEN, "torchvision": _TORCHVISION}
_NAME = re.compile(r"(aten|torchvision)::([A-Za-z0-9_]{1,64})\.([A-Za-z0-9_]{1,64})")
_VALUES = re.compile(
    r"(Optional\[|List\[)*(Tensor|int|number|float|bool|complex|Device|SymInt|str)\]*"
)
# Numbers that a tensor is asked for.
_QUESTIONS = frozenset({"item", "_local_scalar_dense", "equal"})


def op_name(op: Any) -> str:
    """`aten::conv2d.default`. Raises BadInput for what a stored program may not name."""
    name = f"{op._schema.name}.{op._overloadname}" if isinstance(op, OpOverload) else str(op)
    find_op(name)
    return name


@cache
def find_op(name: str) -> OpOverload:
    """The op of this name. Raises BadInput unless it is on the list and exists."""
    match = _NAME.fullmatch(name)
    if match is None or not _listed(match[1], match[2]):
        raise BadInput(f"the op {name[:100]} is not among those a stored program may use")
    if match[1] == "torchvision":
        import torchvision  # noqa: F401  registers its ops
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    found = isinstance(packet, OpOverloadPacket) and match[3] in packet.overloads()
    op = getattr(packet, match[3]) if found else None
    if not isinstance(op, OpOverload) or not _computes(op):
        raise BadInput(f"this torch has no op {name}, which the program uses")
    return op


def _listed(namespace: str, name: str) -> bool:
    listed = _LISTS[namespace]
    return name in listed or (name.endswith("_") and name[:-1] in listed)


def _computes(op: OpOverload) -> bool:
    """Does it take tensors or plain values and give tensors, and not into `out=`?

    TorchScript's own ops on lists, texts and dicts go by the same names.
    """
    arguments, returns = op._schema.arguments, op._schema.returns
    if any(argument.is_out for argument in arguments) or op._overloadname == "data":
        return False
    plain = all(
        _VALUES.fullmatch(str(argument.type)) or argument.has_default_value()
        for argument in arguments
    )
    takes_tensor = any("Tensor" in str(argument.type) for argument in arguments)
    gives_tensor = any("Tensor" in str(result.type) for result in returns)
    asks = op._schema.name.startswith("aten::sym_") or op._opname in _QUESTIONS
    return plain and (gives_tensor or (takes_tensor and asks))
