"""Sample calls of every op that has a rule, and of every op whose sizes a cut rewrites.

    call("convolution", x(2, 6, 5, 5), x(8, 3, 3, 3), x(8), ..., cut="11.. 11.. 1")

`cut` says what the rule must let go; see `probe.Sample`. Extents of one sample differ wherever the op
allows it, so that no rule is right by accident. The numbers are in (0.1, 0.9), where every function is
defined, in float64.
"""

import math

import torch
import torchvision  # noqa: F401  registers its ops
import transformers.integrations.moe  # noqa: F401  registers its op
from probe import Sample, known
from torch import Tensor

SAMPLES: list[Sample] = []


def call(op: str, *args: object, cut: str = "", outputs: int = 9, values: bool = True,
         reaches: bool = True, resizes: bool = True, needs: str = "cpu", finite: bool = False, **kwargs: object) -> None:  # fmt: skip
    """Add `torch.ops.aten.<op>(*args, **kwargs)`, or the call of an op of torchvision's or transformers'."""
    tail = op.removeprefix("torchvision.").removeprefix("transformers.")
    name = f"{'aten.' if tail == op else ''}{op}{'' if '.' in tail else '.default'}"
    SAMPLES.append(
        Sample(name, args, kwargs, cut, outputs, values, reaches, resizes, needs, finite)
    )


_noise = torch.Generator().manual_seed(0)


def x(*shape: int) -> Tensor:
    """Numbers in (0.1, 0.9)."""
    return torch.rand(shape, generator=_noise, dtype=torch.float64) * 0.8 + 0.1


def integers(*shape: int, below: int = 8) -> Tensor:
    return torch.randint(0, below, shape, generator=_noise)


def bits(*shape: int, every: int = 2) -> Tensor:
    """True at every second element: no row is all of one kind by chance."""
    return (torch.arange(math.prod(shape)) % every == 0).reshape(shape)


# ---- pointwise --------------------------------------------------------------------------------

for op in """
    alias clone contiguous detach lift_fresh lift_fresh_copy _to_copy positive
    abs acos asin asinh atan atanh ceil celu cos cosh elu erf erfc erfinv exp exp2 expm1 floor frac gelu
    hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan leaky_relu log log10 log1p log2
    log_sigmoid_forward logical_not logit mish nan_to_num neg reciprocal relu relu6 round rsqrt selu sgn
    sigmoid sign silu sin sinh softplus softshrink sqrt square tan tanh trunc
    relu_ sigmoid_ silu_ hardswish_ leaky_relu_ tanh_ hardtanh_ neg_ exp_
""".split():
    call(op, x(3, 4, 5), cut="111")

for op in """
    angle deg2rad digamma i0 lgamma _neg_view rad2deg signbit sinc
    special_bessel_j0 special_bessel_j1 special_entr special_erfcx special_i0e special_i1 special_i1e
    special_log_ndtr special_modified_bessel_i0 special_modified_bessel_i1 special_ndtri
""".split():
    call(op, x(3, 4, 5) - 0.5, cut="111")
call("_conj", x(3, 4) + 1j * x(3, 4), cut="11")
for op in "isneginf isposinf".split():
    call(op, x(3, 4), cut="11", reaches=False)
call("polygamma", 1, x(3, 4), cut="11")
call("mvlgamma", x(3, 4) + 2, 2, cut="11")
call("poisson", x(3, 4), values=False, cut="11")
call("rrelu_with_noise", x(3, 4) - 0.5, x(3, 4), outputs=1, cut="11 11", reaches=False)
call(
    "fake_quantize_per_tensor_affine_cachemask", x(3, 4), 0.1, 0, -128, 127, cut="11", reaches=False
)
call("relu", x(6), cut="1")
call("relu", x(), cut="")
call("acosh", x(3, 4) + 1, cut="11")
call("bitwise_not", integers(3, 4), cut="11")
call("clamp", x(3, 4), 0.2, 0.6, cut="11")
call("clamp.Tensor", x(3, 4), x(4), x(3, 1), cut="11 1 1.")
call("clamp_min", x(3, 4), 0.3, cut="11")
call("clamp_max", x(3, 4), 0.3, cut="11")
call("threshold", x(3, 4), 0.3, 2.0, cut="11")
call("to.dtype", x(3, 4), torch.float32, cut="11")
call("_to_copy", x(3, 4), dtype=torch.float32, cut="11")
call("dropout", x(3, 4), 0.5, False, cut="11")
call("native_dropout", x(3, 4), 0.5, False, cut="11")
call("alpha_dropout", x(3, 4), 0.5, False, cut="11")
call("feature_dropout", x(3, 4, 5), 0.5, False, cut="111")
call("bernoulli", x(3, 4), values=False, cut="11")
call("bernoulli.p", x(3, 4), 0.4, values=False, cut="11")
call("zero", x(3, 4), reaches=False, cut="11")
call("zero_", x(3, 4), reaches=False, cut="11")
call("fill.Scalar", x(3, 4), 2, reaches=False, cut="11")
call("fill_.Scalar", x(3, 4), 2, reaches=False, cut="11")
call("fill.Tensor", x(3, 4), x(), reaches=False, cut="11 ")
call("copy", x(3, 4), x(4), reaches=False, cut="11 1")
call("copy_", x(3, 4), x(3, 1), reaches=False, cut="11 1.")
for op in "zeros_like ones_like".split():
    call(op, x(3, 4), reaches=False, cut="11")
call("full_like", x(3, 4), 7, reaches=False, cut="11")
for (
    op
) in "empty_like rand_like randn_like uniform exponential_ log_normal cauchy geometric_".split():
    more = (0.5,) if op == "geometric_" else ()
    call(op, x(3, 4), *more, values=False, cut="11")
call("randint_like", x(3, 4), 9, values=False, cut="11")
call("random_", x(3, 4), values=False, cut="11")
call("normal_", x(3, 4), 0.0, 2.0, values=False, cut="11")
call("normal.Tensor_Tensor", x(3, 4), x(3, 4), values=False, cut="11 11")
call("normal.Tensor_float", x(3, 4), 1.0, values=False, cut="11")
call("normal.float_float", 0.0, 1.0, [3, 4], values=False)

for op in "add sub mul div true_divide fmod remainder xlogy copysign".split():
    name = f"{op}.{'Scalar_Other' if op == 'xlogy' else 'Scalar'}"
    call(f"{op}.Tensor", x(3, 4, 5), x(4, 5), cut="111 11")
    call(f"{op}.Tensor", x(4, 1), x(3, 4, 5), cut="1. 111")
    call(f"{op}.Tensor", x(3, 1, 5), x(3, 4, 1), cut="1.1 11.")
    call(name, x(3, 4), 2, cut="11")
for op in "eq ne gt ge lt le".split():
    call(f"{op}.Tensor", integers(9, 4, below=2), integers(4, below=2), cut="11 1")
    call(f"{op}.Scalar", x(3, 5), 0.9, cut="11")
for op in "atan2 fmax fmin hypot maximum minimum".split():
    call(op, x(3, 4), x(3, 1), cut="11 1.")
for op in "logical_and logical_or logical_xor".split():
    call(op, bits(6, 5), bits(6, 5, every=3), cut="11 11")
for op in "bitwise_and bitwise_or bitwise_xor".split():
    call(f"{op}.Tensor", integers(6, 5), integers(6, 5), cut="11 11")
    call(f"{op}.Scalar", integers(6, 5), 3, cut="11")
for op in "add_ mul_ sub_ div_".split():
    call(f"{op}.Tensor", x(3, 4, 5), x(4, 1), cut="111 1.")
for op in (
    "complex heaviside igamma igammac logaddexp logaddexp2 nextafter polar special_xlog1py".split()
):
    call(op, x(3, 4), x(3, 1), cut="11 1.")
call("special_zeta", x(3, 4) + 1, x(3, 1), cut="11 1.")
call("ldexp.Tensor", x(3, 4), integers(3, 1), cut="11 1.")
for op in "bitwise_left_shift bitwise_right_shift".split():
    call(f"{op}.Tensor", integers(6, 5, below=50), integers(5, below=3), cut="11 1")
for op in "__lshift__ __rshift__".split():
    call(f"{op}.Scalar", integers(6, 5, below=50), 1, cut="11")
call("addcdiv", x(3, 4), x(4), x(3, 1), cut="11 1 1.")
call("addcmul", x(3, 4), x(4), x(3, 1), value=0.5, cut="11 1 1.")
call("floor_divide", x(3, 4), x(4), cut="11 1")
call("div.Tensor_mode", x(3, 4), x(4), rounding_mode="floor", cut="11 1")
call("lerp.Scalar", x(3, 4), x(4), 0.3, cut="11 1")
call("lerp.Tensor", x(3, 4), x(4), x(3, 1), cut="11 1 1.")
call("masked_fill.Scalar", x(3, 4), bits(4), 7.0, cut="11 1")
call("masked_fill.Tensor", x(3, 4), bits(3, 1), x(), cut="11 1. ")
call("masked_fill_.Scalar", x(3, 4), bits(4), 7.0, cut="11 1")
call("pow.Tensor_Tensor", x(3, 4), x(4), cut="11 1")
call("pow.Tensor_Scalar", x(3, 4), 2, cut="11")
call("pow.Scalar", 2, x(3, 4), cut="11")
call("_prelu_kernel", x(3, 4, 5), x(1, 4, 1), cut="111 .1.")
call("rsub.Tensor", x(3, 4), x(4), cut="11 1")
call("rsub.Scalar", x(3, 4), 1, cut="11")

call("where.self", bits(4, 1), x(3, 4, 5), x(5), cut="1. 111 1")
call("where.ScalarOther", bits(3, 4), x(3, 4), 0.0, cut="11 11")
call("where.ScalarSelf", bits(3, 4), 0.0, x(3, 4), cut="11 11")

# ---- contractions -----------------------------------------------------------------------------


def convolve(shape: tuple[int, ...], weight: tuple[int, ...], cut: str, groups: int = 1,
             transposed: bool = False, bias: int = 0, stride: int = 1, pad: int = 1) -> None:  # fmt: skip
    """One call of aten.convolution of any rank, and of the op of its rank that programs have."""
    rank = len(shape) - 2
    data = x(*shape), x(*weight), x(bias) if bias else None
    ones, zeros, strides, pads = [1] * rank, [0] * rank, [stride] * rank, [pad] * rank
    call("convolution", *data, strides, pads, ones, transposed, zeros, groups, cut=cut)
    if transposed:
        overload = "default" if rank == 1 else "input"
        name = f"conv_transpose{rank}d.{overload}"
        call(name, *data, strides, pads, zeros, groups, ones, cut=cut)
    else:
        call(f"conv{rank}d", *data, strides, pads, ones, groups, cut=cut)


convolve((2, 4, 6, 5), (3, 4, 3, 3), "11.. 11.. 1", bias=3)
convolve((2, 4, 6, 5), (3, 4, 3, 3), "11.. 11..")
convolve((2, 4, 7), (3, 4, 3), "11. 11. 1", bias=3, stride=2)
convolve((2, 2, 4, 5, 3), (3, 2, 3, 3, 3), "11... 11...")
convolve((2, 6, 5, 4), (9, 2, 3, 3), "11.. 11.. 1", groups=3, bias=9)
convolve((2, 6, 5), (9, 2, 3), "11. 11.", groups=3)
convolve((2, 4, 3, 3, 3), (6, 2, 1, 3, 3), "11... 11...", groups=2)
convolve((2, 4, 5, 4), (4, 1, 3, 3), "11.. 1... 1", groups=4, bias=4)
convolve((2, 4, 5, 4), (8, 1, 3, 3), "11.. 1...", groups=4)
convolve((2, 4, 5, 4), (1, 4, 3, 3), "11.. .1.. .", bias=1)
convolve((2, 1, 5, 4), (3, 1, 3, 3), "1... 1... 1", bias=3)
convolve((2, 4, 5, 3), (4, 3, 2, 2), "11.. 11.. 1", transposed=True, bias=3, stride=2)
convolve((2, 4, 5), (4, 3, 2), "11. 11.", transposed=True, stride=2)
convolve((2, 2, 3, 3, 3), (2, 3, 3, 3, 3), "11... 11... 1", transposed=True, bias=3)
convolve((2, 6, 4, 4), (6, 2, 3, 3), "11.. 11.. 1", transposed=True, groups=3, bias=6)
convolve((2, 4, 4, 4), (4, 1, 3, 3), "11.. 1...", transposed=True, groups=4)
convolve((2, 4, 5), (4, 2, 2), "11. 11.", transposed=True, groups=2)
convolve((2, 4, 2, 3, 2), (4, 2, 2, 2, 2), "11... 11...", transposed=True, groups=2)
# a kernel of one reads every position by itself, unless it steps over some or pads others
convolve((2, 4, 6, 5), (3, 4, 1, 1), "1111 11.. 1", bias=3, pad=0)
convolve((2, 4, 6, 5), (3, 4, 3, 1), "11.1 11..", pad=0)
convolve((2, 4, 6), (8, 2, 1), "111 11.", groups=2, pad=0)
convolve((2, 4, 6), (4, 3, 1), "111 11. 1", transposed=True, bias=3, pad=0)
convolve((2, 4, 6, 5), (3, 4, 1, 1), "11.. 11.. 1", bias=3, stride=2, pad=0)
# one that spans all there is sums over it
convolve((2, 4, 6, 5), (3, 4, 3, 5), "11.1 11.1 1", bias=3, pad=0)
convolve((2, 6, 5), (4, 3, 5), "111 111", groups=2, stride=2, pad=0)
convolve((2, 4, 6, 5), (3, 4, 3, 5), "11.. 11.. 1", bias=3, pad=1)
convolve((2, 4, 3), (4, 2, 3), "11. 11.", transposed=True, pad=0)
convolve((2, 4, 6, 5), (3, 4, 1, 1), "11.. 11.. 1", bias=3, pad=1)
call("mkldnn_convolution", x(2, 4, 6, 5).float(), x(6, 2, 3, 3).float(), x(6).float(),
     [1, 1], [1, 1], [1, 1], 2, cut="11.. 11.. 1")  # fmt: skip
call(
    "conv2d.padding",
    x(2, 4, 6, 5),
    x(3, 4, 3, 3),
    x(3),
    [1, 1],
    "same",
    [1, 1],
    1,
    cut="11.. 11.. 1",
)
call("addmm", x(5), x(3, 4), x(4, 5), cut="1 11 11")
call("addmm", x(3, 5), x(3, 4), x(4, 5), beta=2, cut="11 11 11")
call("addmm", x(1, 5), x(3, 4), x(4, 5), cut=".1 11 11")
call("mm", x(3, 4), x(4, 5), cut="11 11")
call("bmm", x(2, 3, 4), x(2, 4, 5), cut="111 111")
# on smaller tensors it refuses: rows must be multiples of 16 bytes
ends = torch.tensor([3, 7], dtype=torch.int32)
call("_grouped_mm", x(7, 4).float(), x(2, 4, 8).float(), ends, cut=".1 .11 .", resizes=False)
call("transformers.grouped_mm_fallback", x(7, 4), x(2, 4, 5), ends, cut=".1 .11 .")
call("_grouped_mm", x(2, 3, 4).float(), x(2, 4, 8).float(), cut="111 111", resizes=False)
call("histc", x(12), bins=3, cut=".")
call("bincount", integers(12), cut=".")
for op in "_embedding_bag _embedding_bag_forward_only".split():
    call(op, x(8, 4), integers(6), torch.tensor([0, 3]), outputs=1, cut=".1 . .")
call("_trilinear", x(2, 3), x(6, 3, 4), x(2, 4), [1, 3], [0], [1, 2], [2, 3], cut="11 111 11")
call("baddbmm", x(2, 3, 5), x(2, 3, 4), x(2, 4, 5), cut="111 111 111")
call("baddbmm", x(3, 5), x(2, 3, 4), x(2, 4, 5), cut="11 111 111")
call("addbmm", x(5), x(2, 3, 4), x(2, 4, 5), cut="1 111 111")
call("addmv", x(3), x(3, 4), x(4), cut="1 11 1")
call("addr", x(3, 5), x(3), x(5), cut="11 1 1")
call("linalg_cross", x(3, 5), x(3, 5), dim=0, cut=".1 .1")
call("affine_grid_generator", x(4, 2, 3), [4, 2, 5, 6], False, cut="1..", resizes=False)
call("_cdist_forward", x(2, 3, 4), x(2, 5, 4), 2.0, None, cut="111 111")
call("_cdist_forward", x(3, 4), x(5, 4), 1.0, None, cut="11 11")
call("_pdist_forward", x(5, 4), 2.0, cut=".1")
call("mv", x(3, 4), x(4), cut="11 1")
call("dot", x(4), x(4), cut="1 1")
call("outer", x(3), x(4), cut="1 1")
call("linear", x(2, 3, 4), x(5, 4), x(5), cut="111 11 1")
call("linear", x(3, 4), x(5, 4), cut="11 11")
call("linear", x(4), x(5, 4), cut="1 11")
call("embedding", x(7, 4), known(1, 5, 2), cut=".1 .")
call("embedding", x(7, 4), integers(2, 3, below=7), cut=".1 ..")
ATTENTION = "scaled_dot_product_attention"
call(ATTENTION, x(2, 3, 5, 4), x(2, 3, 6, 4), x(2, 3, 6, 7), cut="1111 11!1 11!1")
call(ATTENTION, x(2, 3, 5, 4), x(2, 3, 6, 4), x(2, 3, 6, 7), x(5, 6), cut="1111 11!1 11!1 1!")

# ---- norms and softmax ------------------------------------------------------------------------

C = [x(4) for _ in range(4)]
call("native_batch_norm", x(3, 4, 5, 2), *C, False, 0.1, 1e-5, outputs=1, cut="11.. 1 1 1 1")
call("native_batch_norm", x(3, 4), *C, False, 0.1, 1e-5, outputs=1, cut="11 1 1 1 1")
call(
    "native_batch_norm", x(3, 4, 5), None, None, *C[:2], False, 0.1, 1e-5, outputs=1, cut="11. 1 1"
)
call("native_batch_norm", x(3, 4, 5), *C[:2], None, None, True, 0.1, 1e-5, outputs=1, cut="!1! 1 1")
call(
    "_native_batch_norm_legit_no_training",
    x(3, 4, 5, 2),
    *C,
    0.1,
    1e-5,
    outputs=1,
    cut="11.. 1 1 1 1",
)
call(
    "cudnn_batch_norm",
    x(3, 4, 5, 2),
    *C,
    False,
    0.1,
    1e-5,
    outputs=1,
    needs="cuda",
    cut="11.. 1 1 1 1",
)
for shape in ((3, 6, 5, 4), (3, 6, 7)):
    space = shape[2] * (shape[3] if len(shape) == 4 else 1)
    dots = "." * (len(shape) - 2)
    call(
        "native_group_norm",
        x(*shape),
        x(6),
        x(6),
        3,
        6,
        space,
        2,
        1e-5,
        outputs=1,
        cut=f"1!{dots} ! !",
    )
    call("group_norm", x(*shape), 2, x(6), x(6), outputs=1, cut=f"1!{dots} ! !")
call("native_group_norm", x(3, 6, 5), None, None, 3, 6, 5, 1, 1e-5, outputs=1, cut="1!.")
call("native_group_norm", x(3, 6, 5), x(6), x(6), 3, 6, 5, 6, 1e-5, outputs=1, cut="11. 1 1")
for norm, fused in (("native_layer_norm", "layer_norm"), ("_fused_rms_norm", "rms_norm")):
    biases = [x(4)] if norm == "native_layer_norm" else []
    more = [None] if norm == "native_layer_norm" else []
    said = " !" * len(biases)
    call(norm, x(2, 3, 4), [4], x(4), *biases, 1e-5, outputs=1, cut=f"11! !{said}")
    call(norm, x(2, 3, 4), [4], None, *more, 1e-5, outputs=1, cut="11!")
    call(norm, x(2, 3, 4), [3, 4], x(3, 4), *more, 1e-5, outputs=1, cut="1!! !!")
    call(fused, x(2, 3, 4), [4], x(4), *biases, 1e-5, outputs=1, cut=f"11! !{said}")
call("_weight_norm_interface", x(4, 3, 2, 2), x(4, 1, 1, 1), 0, cut="1!!! 1...")
call("_weight_norm_interface", x(4, 3, 2), x(1, 1, 2), 2, cut="!!1 ..1")
for op in "_softmax _log_softmax".split():
    call(op, x(3, 4, 5), -1, False, cut="11!")
    call(op, x(3, 4, 5), 1, False, cut="1!1")
call("_safe_softmax", x(3, 4, 5), -1, cut="11!")
call("renorm", x(3, 4, 5), 2, 1, 0.5, cut="!1!")
# of ops that tell positions too, the values: positions among what stays are other numbers
for op in "cumsum cumprod logcumsumexp cummax cummin".split():
    call(op, x(3, 4, 5), 1, cut="1!1", outputs=1)
    call(op, x(3, 4, 5), -1, cut="11!", outputs=1)

# ---- reductions, pooling, resampling -----------------------------------------------------------

call("max_pool1d", x(2, 3, 6), [2], [2], cut="11.")
call("max_pool2d_with_indices", x(2, 3, 6, 4), [2, 2], [2, 2], cut="11..")
call("max_pool2d_with_indices", x(3, 6, 4), [3, 3], [1, 1], [1, 1], cut="1..")
call("max_pool3d_with_indices", x(2, 3, 4, 4, 4), [2, 2, 2], [2, 2, 2], cut="11...")
call("max_pool2d_with_indices", x(2, 3, 6, 4), [2, 1], [2, 1], cut="11.1", outputs=1)
call(
    "max_pool2d_with_indices", x(2, 3, 6, 4), [2, 1], [2, 1], [1, 0], [2, 3], cut="11.1", outputs=1
)
call("max_pool3d_with_indices", x(2, 3, 4, 3, 4), [2, 1, 1], [2, 1, 2], cut="11.1.", outputs=1)
call("max_pool1d", x(2, 3, 6), [1], [1], cut="111")
call("max_pool1d", x(2, 3, 6), [1], [2], cut="11.")
call("avg_pool1d", x(2, 3, 6), [2], cut="11.")
call("avg_pool1d", x(2, 3, 6), [1], cut="111")
call("avg_pool2d", x(2, 1, 6, 4), [2, 1], [2, 1], [0, 0], True, cut="1..1")
call("avg_pool2d", x(2, 3, 6, 4), [3, 1], [1, 2], cut="11..")
call("avg_pool3d", x(2, 3, 4, 3, 4), [2, 1, 1], [2, 1, 1], cut="11.11")
call("avg_pool2d", x(2, 3, 6, 4), [2, 2], cut="11..")
call("avg_pool2d", x(3, 6, 4), [3, 3], [2, 2], [1, 1], cut="1..")
call("avg_pool3d", x(2, 3, 4, 4, 4), [2, 2, 2], cut="11...")
call("_adaptive_avg_pool2d", x(2, 3, 6, 4), [3, 2], cut="11..")
call("_adaptive_avg_pool2d", x(2, 3, 6, 4), [1, 1], cut="11..")
call("_adaptive_avg_pool3d", x(2, 3, 4, 4, 4), [2, 2, 2], cut="11...")
call("adaptive_max_pool2d", x(2, 3, 6, 4), [3, 2], cut="11..")
call("adaptive_max_pool3d", x(2, 3, 4, 4, 4), [2, 2, 2], cut="11...")
call("upsample_nearest1d", x(2, 3, 4), [8], cut="11.")
call("upsample_nearest2d", x(2, 3, 4, 5), [8, 10], cut="11..")
call("upsample_nearest3d", x(2, 3, 2, 4, 5), [4, 8, 10], cut="11...")
call("upsample_nearest1d", x(2, 3, 4), [4], cut="111")
call(
    "upsample_nearest1d", x(2, 3, 3), [3], 1.2, cut="11."
)  # of the first, the first and the second
call("upsample_nearest2d", x(2, 3, 4, 5), [8, 5], 2.0, 1.0, cut="11.1")
call("upsample_nearest2d.vec", x(2, 3, 4, 5), None, [2.0, 1.0], cut="11.1")
call("upsample_nearest2d.vec", x(2, 3, 4, 5), [4, 7], None, cut="111.")
call("upsample_nearest3d", x(2, 3, 2, 4, 5), [2, 8, 5], cut="111.1")
call("_upsample_nearest_exact2d", x(2, 3, 4, 5), [6, 7], cut="11..")
call("_upsample_nearest_exact2d", x(2, 3, 4, 5), [4, 7], cut="111.")
call("_upsample_nearest_exact1d", x(2, 3, 4), [4], cut="111")
call("_upsample_nearest_exact3d", x(2, 3, 2, 4, 3), [2, 4, 5], cut="1111.")
call("_upsample_nearest_exact1d", x(2, 3, 4), [6], cut="11.")
call("_upsample_nearest_exact3d", x(2, 3, 2, 4, 3), [4, 6, 5], cut="11...")
call("upsample_linear1d", x(2, 3, 4), [7], False, cut="11.")
for op in (
    "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split()
):
    call(op, x(2, 3, 4, 5), [8, 7], False, cut="11..")
for rank in (2, 3):
    places = torch.tensor([[0, 3], [9, 11]]).expand(2, 3, *[1] * (rank - 2), 2, 2).contiguous()
    call(f"max_unpool{rank}d", x(*places.shape), places, [1] * (rank - 2) + [3, 4],
         *([[1, 1, 1], [0, 0, 0]] if rank == 3 else []), cut="11" + "." * rank + " 11" + "." * rank)  # fmt: skip
call("upsample_trilinear3d", x(2, 3, 2, 4, 3), [4, 5, 6], True, cut="11...")
call("grid_sampler_2d", x(2, 3, 4, 5), x(2, 6, 7, 2), 0, 0, False, cut="11.. 1...")
call("grid_sampler_3d", x(2, 3, 4, 5, 6), x(2, 3, 4, 2, 3), 0, 0, False, cut="11... 1....")
for kind in "reflection replication".split():
    call(f"{kind}_pad1d", x(2, 3, 4), [1, 2], cut="11.")
    call(f"{kind}_pad2d", x(2, 3, 4, 5), [1, 2, 0, 1], cut="11..")
    call(f"{kind}_pad2d", x(3, 4, 5), [1, 2, 0, 1], cut="1..")
    call(f"{kind}_pad3d", x(2, 3, 4, 5, 4), [1, 1, 0, 1, 1, 0], cut="11...")

call("sum", x(3, 4, 5), cut="111")
for op, mark in {
    "sum.dim_IntList": "1",
    "mean.dim": "!",
    "amax": "!",
    "amin": "!",
    "logsumexp": "!",
}.items():
    call(op, x(3, 4, 5), [1], cut=f"1{mark}1")
    call(op, x(3, 4, 5), [-1], True, cut=f"11{mark}")
    call(op, x(3, 4, 5), [0, 2], cut=f"{mark}1{mark}")
call("nansum", x(3, 4, 5), [1], cut="111")
call("norm.ScalarOpt_dim", x(3, 4, 5), 2, [1], True, cut="1!1")
call("dist", x(3, 4), x(4), cut="!! !")
call("trace", x(4, 4), cut="11")
call("trace", x(4, 5), cut="..")
call("count_nonzero", bits(3, 5), cut="!!")
call("count_nonzero.dim_IntList", bits(3, 4, 5, every=3), [1], cut="1!1", reaches=False)
call("std_mean.correction", x(3, 4, 5), [1], correction=0, cut="1!1")
call("median", x(3, 5), cut="!!", reaches=False)
for op in "median nanmedian".split():
    call(f"{op}.dim", x(3, 4, 5), 1, cut="1!1", outputs=1)
call("nanmedian", x(3, 5), cut="!!", reaches=False)
call("mode", x(3, 4, 5), cut="11!", outputs=1)
call("mode", x(3, 4, 5), 1, True, cut="1!1", outputs=1)
call("aminmax", x(3, 4), cut="!!")
call("aminmax", x(3, 4, 5), dim=1, keepdim=True, cut="1!1")
call("mean", x(3, 4), cut="!!")
call("amax", x(3, 4), cut="!!")
for op in "_is_any_true _is_all_true".split():
    call(op, bits(6, 5), reaches=False, cut="!!")
for op in "any all".split():
    call(op, bits(3, 4), cut="!!")
    call(f"{op}.dim", bits(3, 4, 5), 1, cut="1!1")
    call(f"{op}.dims", bits(3, 4, 5), [0, -1], True, cut="!1!")
call("prod", x(3, 4), cut="!!")
call("prod.dim_int", x(3, 4, 5), -2, True, cut="1!1")
call("linalg_vector_norm", x(3, 4, 5), 2, [1], cut="1!1")
call("linalg_vector_norm", x(3, 4, 5), 1, [-1], True, cut="11!")
call("linalg_vector_norm", x(3, 4, 5), cut="!!!")
for op in "var std var_mean".split():
    call(f"{op}.correction", x(3, 4, 5), [1], correction=0, cut="1!1")
    call(f"{op}.correction", x(3, 4, 5), [-1], correction=0, keepdim=True, cut="11!")
    call(f"{op}.correction", x(3, 4, 5), correction=0, cut="!!!")
for op in "max min".split():
    call(op, x(3, 4), cut="!!")
    call(f"{op}.dim", x(3, 4, 5), 1, cut="1!1", outputs=1)
    call(f"{op}.dim", x(3, 4, 5), -1, True, cut="11!", outputs=1)
for op in "argmax argmin".split():
    call(op, x(6, 5, 7), 1, cut="1.1")
    call(op, x(6, 7, 5), -1, True, cut="11.")
    call(op, x(3, 4), cut="..")

# ---- movement ---------------------------------------------------------------------------------

for op in "view _unsafe_view reshape".split():
    call(op, x(2, 3, 4, 5), [2, 3, 20], cut="1111")
    call(op, x(2, 3, 4, 5), [6, 20], cut="1111")
    call(op, x(12, 4), [3, 4, 4], cut="11")
    call(op, x(24), [2, 3, 4], cut="1")
    call(op, x(2, 3, 4), [-1], cut="111")
    call(op, x(4, 1, 6), [4, 6], cut="1.1")
    call(op, x(4, 6), [2, 12], cut="11")
call("view", x(4, 6), [3, 8], cut="..")
call("_reshape_alias", x(12, 4), [3, 4, 4], [16, 4, 1], cut="11", resizes=False)
call("flatten.using_ints", x(2, 3, 4, 5), 1, 2, cut="1111")
call("unflatten.int", x(3, 12, 2), 1, [3, 4], cut="111")
call("unflatten.int", x(3, 12, 2), -2, [3, -1], cut="111")
call("t", x(3, 4), cut="11")
call("t", x(3), cut="1")
call("t_", x(3, 4), cut="11", resizes=False)
call("numpy_T", x(3, 4), cut="11")
for op in ("transpose.int", "swapaxes"):
    call(op, x(3, 4, 5), 0, 2, cut="111")
    call(op, x(3, 4, 5), -1, 1, cut="111")
call("permute", x(3, 4, 5), [2, 0, 1], cut="111")
call("permute", x(3, 4, 5), [-1, 0, -2], cut="111")
call("unsqueeze", x(3, 4), 1, cut="11")
call("unsqueeze", x(3, 4), -1, cut="11")
call("squeeze", x(1, 3, 1, 4), cut=".1.1")
call("squeeze", x(1, 2, 3), cut=".11")
call("squeeze.dim", x(3, 2), 1, cut="11")
call("squeeze.dim", x(3, 1, 4), 1, cut="1.1")
call("squeeze.dim", x(3, 4), -1, cut="11")
call("squeeze.dims", x(1, 3, 1), [0, -1], cut=".1.")
call("expand", x(3, 1), [3, 5], cut="1.")
call("expand", x(3, 1), [2, -1, 5], cut="1.")
call("repeat", x(3, 4), [2, 1], cut="11")
call("repeat", x(3, 4), [2, 1, 3], cut="11")
call("tile", x(3, 4), [2], cut="11")
call("repeat_interleave.self_int", x(3, 4), 2, 1, cut="11")
call("slice.Tensor", x(6, 4), 0, 1, 4, cut="11")
call("slice.Tensor", x(3, 8), 1, 0, 9223372036854775807, 2, cut="11")
call("slice.Tensor", x(3, 8), -1, -5, -1, cut="11")
call("slice.Tensor", x(3, 8), 1, 4, 5, cut="1s")
call("narrow", x(6, 4), 0, 1, 3, cut="11")
call("flip", x(3, 4), [1], cut="11")
call("flip", x(3, 4), [0, -1], cut="11")
call("roll", x(3, 6), [2], [1], cut="11")
call("roll", x(3, 6), [-1, 4], [0, -1], cut="11")
call("roll", x(6), [2], cut=".")
call("roll", x(2, 3), [2], cut="..")
call("select.int", x(3, 6), 1, 2, cut="1s")
call("select.int", x(3, 6), -1, -1, cut="1s")
call("unbind.int", x(3, 4), 1, cut="1.")
call("split.Tensor", x(3, 6), 2, 1, cut="11")
call("split.Tensor", x(7, 3), 3, cut="s1")
call("unsafe_split.Tensor", x(3, 6), 2, -1, cut="11")
call("split_with_sizes", x(3, 6), [2, 4], -1, cut="11")
call("unsafe_split_with_sizes", x(6, 3), [3, 3], cut="11")
call("chunk", x(3, 6), 2, 1, cut="11")
call("tensor_split.sections", x(3, 6), 3, 1, cut="11")
call("tensor_split.indices", x(3, 6), [2, 4], 1, cut="11")
for op in "cat concat".split():
    call(op, [x(3, 4), x(3, 2)], 1, cut="11 11")
    call(op, [x(2, 4), x(3, 4), x(1, 4)], -2, cut="11 11 .1")
call("cat", [x(0), x(3, 4)], 1, cut=". 11")
call("stack", [x(3, 4), x(3, 4)], 1, cut="11 11")
call("stack", [x(3, 4), x(3, 4)], -1, cut="11 11")
call("constant_pad_nd", x(3, 4, 5), [1, 2], 0.0, cut="111")
call("constant_pad_nd", x(3, 4, 5), [0, 0, 2, 1], 1.0, cut="111")
call("constant_pad_nd", x(3, 6), [-1, -2], cut="11")
call("constant_pad_nd", x(3, 6), [-1, 2], cut="11")
call("pad", x(3, 4, 5), [0, 0, 2, 1], cut="111")
call("index_select", x(3, 6), 1, known(4, 0, 3), cut="11 .")
call("index_select", x(3, 6), -1, known(4, 0, 4, 5), cut="11 .")
call("index_select", x(3, 6), 1, integers(4, below=6), cut="1. .")
call("index.Tensor", x(3, 6, 4), [None, known(4, 0, -1)], cut="111 .")
call("index.Tensor", x(6, 4), [known(4, 0, 3)], cut="11 .")
call("index.Tensor", x(3, 6, 4), [None, integers(2, 2, below=6)], cut="1.1 ..")
call("index.Tensor", x(3, 6, 4), [known(1, 0), known(3, 3)], cut="..1 . .")
call("index.Tensor", x(3, 6, 4), [known(1, 0), None, known(3, 3)], cut=".1. . .")
call(
    "index.Tensor",
    x(3, 4),
    [None, torch.tensor([True, False, True, True])],
    cut="1. .",
    resizes=False,
)
call("set_", x(3, 4), cut="11", reaches=False)
call("as_strided", x(3, 4), [3, 4], [4, 1], cut="11", resizes=False)
call("as_strided", x(3, 4), [4, 3], [1, 4], cut="11")
call("unfold", x(3, 6), 1, 2, 1, cut="1.")
call("unfold", x(3, 6), 1, 2, 2, cut="11")
call("unfold", x(3, 7), 1, 2, 2, cut="1.")
call("view_as_complex", x(3, 4, 2), cut="11.")
call("view_as_real", x(3, 4) + 0j, cut="11")
call("diagonal", x(4, 3, 4), 0, 0, 2, cut="111")
call("diagonal", x(3, 4, 4), 1, -2, -1, cut="1..")
call("diagonal", x(5, 4), cut="..")
for turns in range(4):
    call("rot90", x(3, 4, 5), turns, [0, -1], cut="111")
call("im2col", x(2, 3, 4, 5), [3, 2], [1, 1], [1, 0], [1, 1], cut="11..")
call("col2im", x(2, 12, 20), [5, 6], [2, 2], [1, 1], [0, 0], [1, 1], cut="11.")
call("pixel_shuffle", x(2, 12, 3, 4), 2, cut="1111")
call("pixel_unshuffle", x(2, 3, 4, 6), 2, cut="1111")
call("_pack_padded_sequence", x(3, 4, 5), known(4, 2, 1), True, cut="..1 .")
call("_pack_padded_sequence", x(4, 3, 5, 2), known(4, 2, 1), False, cut="..11 .")
call("channel_shuffle", x(2, 6, 3), 2, cut="111")
call("native_channel_shuffle", x(2, 6, 3), 2, cut="111")
call("glu", x(3, 8), cut="11")
call("glu", x(3, 8, 2), 1, cut="111")
call("tril", x(2, 4, 4), cut="1..")
call("triu", x(2, 4, 4), 1, cut="1..")

# ---- selection --------------------------------------------------------------------------------

call("index.Tensor", x(3, 4, 5), [bits(3)], cut=".11 .", resizes=False)
call("index.Tensor", x(3, 4, 5), [bits(3, 4)], cut="..1 ..", resizes=False)
call("index.Tensor", x(2, 3, 4), [None, bits(3)], cut="1.1 .", resizes=False)
call("index.Tensor", x(3, 4, 5), [bits(3, 4, 1).expand(3, 4, 5)], cut="..1 ..1")
call("index.Tensor", x(3, 4, 5), [bits(3, 1, 1).expand(3, 4, 5)], cut=".11 .11")
call("index.Tensor", x(3, 4, 5), [bits(3, 1, 5).expand(3, 4, 5)], cut="... ...", resizes=False)
call("index.Tensor", x(3, 4, 5), [bits(3, 4, 5)], cut="... ...", resizes=False)
put = known(2, 0)
call("index_put", x(3, 4, 5), [put], x(2, 4, 5), cut=".11 . .11")
call("index_put_", x(3, 4, 5), [put], x(2, 4, 5), cut=".11 . .11")
call("index_put", x(3, 4, 5), [put], x(5), cut=".11 . 1")
call("index_put", x(3, 4, 5), [put], x(4, 1), cut=".11 . 1.")
call("index_put", x(3, 4, 5), [put, put], x(2, 5), cut="..1 . . .1")
call("index_put", x(3, 4, 5), [None, put], x(3, 2, 5), cut="1.1 . 1.1")
call("index_put", x(3, 4, 5), [put], x(2, 4, 5), True, cut=".11 . .11")
call("index_put", x(3, 4, 5), [bits(3)], x(2, 4, 5), cut=".11 . .11", resizes=False)
for filled in (bits(3, 4, 5, every=3), bits(3, 4, 1, every=5).expand(3, 4, 5)):
    call("index_put", x(3, 4, 5), [filled], x(1)[0], cut="111 111 ")
    call("index_put_", x(3, 4, 5), [filled], x(1), cut="111 111 .")
call("index_put", x(3, 4, 5), [bits(3, 4, 5)], x(30), cut="... ... .", resizes=False)
call("index_put", x(3, 4, 5), [bits(3, 4, 1).expand(3, 4, 5)], x(30), cut="..1 ..1 1")
call(
    "index_put", x(3, 4, 5), [bits(3, 1, 5).expand(3, 4, 5)], x(32), cut="... ... .", resizes=False
)
call("bucketize.Tensor", x(3, 4), x(5).sort().values, cut="11 .")
call("searchsorted.Tensor", x(5).sort().values, x(3, 4), cut=". 11")
call("searchsorted.Tensor", x(3, 5).sort().values, x(3, 4), cut="1. 1.")
call("isin.Tensor_Tensor", integers(8, 5, below=4), torch.tensor([0, 1, 2]), cut="11 .")
rows = bits(6, 1).expand(6, 5)
call("masked_scatter", x(6, 5), rows, x(3, 5), cut=".1 .1 .1", resizes=False)
call("masked_scatter", x(6, 5), bits(6, 1), x(3, 5), cut=".1 .. .1", resizes=False)
call("masked_scatter", x(6, 4, 5), bits(6, 4, 1), x(12, 5), cut="..1 ... .1", resizes=False)
call("masked_scatter", x(6, 5), bits(6, 5), x(15), cut=".. .. .", resizes=False)
call("slice_scatter", x(3, 6, 4), x(3, 2, 4), 1, 1, 3, cut="1.1 1.1")
call("select_scatter", x(3, 6, 4), x(3, 4), 1, 2, cut="1.1 11")
call("kthvalue", x(3, 6, 4), 2, 1, cut="1.1")
call("kthvalue", x(3, 4, 6), 2, -1, True, cut="11.")
for reduce in "sum", "amax":
    call(
        "scatter_reduce.two",
        x(3, 4, 5),
        1,
        integers(3, 2, 5, below=4),
        x(3, 2, 5),
        reduce,
        cut="1.1 1.1 1.1",
    )
for op in "topk", "sort":
    counted = [2] if op == "topk" else []
    call(op, x(3, 4, 5), *counted, 1, cut="1.1")
    call(op, x(3, 4), *counted, cut="1.")
call("sort.stable", x(3, 4, 5), stable=True, dim=0, cut=".11")
call("gather", x(3, 4, 5), 1, integers(3, 2, 5, below=4), cut="1.1 1.1")
call("gather", x(3, 4, 5), 1, integers(2, 6, 5, below=4), cut="..1 ..1")
call("scatter.src", x(3, 4, 5), 1, integers(3, 2, 5, below=4), x(3, 2, 5), cut="1.1 1.1 1.1")
call("scatter.src", x(3, 4, 5), 1, integers(3, 2, 3, below=4), x(3, 2, 3), cut="1.. 1.. 1..")
call("scatter.value", x(3, 4, 5), 1, integers(3, 2, 5, below=4), 0.3, cut="1.1 1.1")
call("scatter_add", x(3, 4, 5), 1, integers(3, 2, 5, below=4), x(3, 2, 5), cut="1.1 1.1 1.1")
call("index_add", x(3, 4, 5), 1, put, x(3, 2, 5), cut="1.1 . 1.1")
call("index_copy", x(3, 4, 5), 1, put, x(3, 2, 5), cut="1.1 . 1.1")
call("index_fill.int_Scalar", x(3, 4, 5), 1, put, 0.3, cut="1.1 .")
call("nonzero", bits(3, 4), cut="..")
call("_unique2", integers(9), True, True, True, cut=".")
call("masked_select", x(3, 4), bits(3, 4), cut=".. ..")

BOXES = torch.tensor([[0.0, 0, 0, 3, 3], [1, 1, 1, 4, 5], [0, 2, 1, 5, 4]], dtype=torch.float64)
call("torchvision.nms", BOXES[:, 1:], x(3), 0.3, cut=".. .")
call("torchvision.roi_align", x(2, 4, 6, 6), BOXES, 1.0, 2, 3, 2, False, cut=".1.. ..")
call("torchvision.roi_pool", x(2, 4, 6, 6), BOXES, 1.0, 2, 3, cut=".1.. ..")


def deform(
    channels: tuple[int, int], groups: int, apart: int, cut: str, masked: bool = True
) -> None:
    """One call of deform_conv2d whose offsets are `apart` for each run of the channels in."""
    into, out = channels
    data = x(2, into, 5, 6), x(out, into // groups, 3, 3), x(2, 18 * apart, 3, 4)
    mask = x(2, 9 * apart, 3, 4) if masked else x(2, 1)
    steps = (1, 1, 0, 0, 1, 1)
    call(
        "torchvision.deform_conv2d",
        *data,
        mask,
        x(out),
        *steps,
        groups,
        apart,
        masked,
        cut=cut,
        finite=True,
    )


deform((4, 6), 1, 1, ".1.. 11.. .... .... 1")
deform((4, 6), 2, 1, ".1.. 11.. .... .... 1")
deform((4, 6), 1, 1, ".1.. 11.. .... .. 1", masked=False)

# ---- losses -----------------------------------------------------------------------------------

for op in "mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy".split():
    more = (None,) if op == "binary_cross_entropy" else ()  # it takes nothing but [0, 1]
    exact = "11 11" if op in ("mse_loss", "smooth_l1_loss", "huber_loss") else "!! !!"
    call(op, x(3, 4), x(3, 4), *more, 0, cut="11 11", values=not more)
    call(op, x(3, 4), x(3, 4), *more, 1, cut="!! !!", reaches=not more)
    call(op, x(3, 4), x(3, 4), *more, 2, cut=exact, reaches=not more)
call("mse_loss", x(3, 4), x(3, 4), cut="!! !!")
call("binary_cross_entropy", x(3, 4), x(3, 4), x(3, 4), cut="!! !! !!", reaches=False)
call("binary_cross_entropy_with_logits", x(3, 4), x(3, 4), None, x(4), 1, cut="!! !! !")
call("binary_cross_entropy_with_logits", x(3, 4), x(3, 4), None, None, 0, cut="11 11")
call("nll_loss_forward", x(3, 4), integers(3, below=4), None, 1, -100, cut=".. .")
call("nll_loss_forward", x(3, 4), integers(3, below=4), x(4), 0, -100, outputs=1, cut=".. . .")
call("nll_loss_forward", x(4), integers(below=4), None, 1, -100, cut=". ")
call("nll_loss2d_forward", x(2, 4, 3, 5), integers(2, 3, 5, below=4), None, 1, -100, cut=".... ...")
call(
    "nll_loss2d_forward",
    x(2, 4, 3, 5),
    integers(2, 3, 5, below=4),
    x(4),
    0,
    -100,
    outputs=1,
    cut=".... ... .",
)

# ---- factories --------------------------------------------------------------------------------

for op in "zeros ones".split():
    call(op, [3, 4])
call("full", [3, 4], 2.5)
call("empty.memory_format", [3, 4], values=False)
for op in "rand randn".split():
    call(op, [3, 4], values=False)
for op in "new_zeros new_ones".split():
    call(op, x(2), [3, 4], reaches=False, cut=".")
call("new_full", x(2), [3, 4], 2.5, reaches=False, cut=".")
call("new_empty", x(2), [3, 4], values=False, cut=".")
call("scalar_tensor", 2.5)
call("arange", 5)
call("arange.start", 1, 5)
call("linspace", 0, 1, 5)
call("eye", 4)
call("eye.m", 4, 4)
call("eye.m", 4, 3)

call("tril_indices", 3, 4)
call("triu_indices", 3, 4)
call("range.step", 1, 5, 1)
call("logspace", 0, 1, 5)
for op in "hann hamming blackman bartlett kaiser".split():
    call(f"{op}_window", 6)
for op in "fftfreq rfftfreq".split():
    call(f"fft_{op}", 6)
call("randint.low", 0, 5, [3], values=False)
call("randperm", 5, values=False)

# ---- transforms -------------------------------------------------------------------------------

call("_fft_r2c", x(3, 4, 5), [1], 0, True, cut="1.1")
call("_fft_c2r", x(3, 4, 5) + 0j, [2], 0, 8, cut="11.")
call("_fft_c2c", x(3, 4, 5) + 0j, [0, 2], 0, True, cut=".1.")


# ---- matrices ---------------------------------------------------------------------------------


def square(*batch: int, size: int = 4) -> Tensor:
    """Symmetric, and far from singular."""
    a = x(*batch, size, size)
    return a @ a.mT + torch.eye(size, dtype=torch.float64)


call("linalg_inv_ex", square(3), cut="1!!")
call("linalg_cholesky_ex", square(3), cut="1!!")
call("cholesky_inverse", square(), cut="!!")
call("cholesky_solve", x(3, 4, 5), square(3), cut="1!1 1!!")
call("_linalg_det", square(3), outputs=1, cut="1!!")
call("_linalg_slogdet", square(3), outputs=2, cut="1!!")
call("_linalg_solve_ex", square(3), x(3, 4, 5), outputs=1, cut="1!! 1!1")
call("_linalg_solve_ex", square(), x(5, 4), left=False, outputs=1, cut="!! 1!")
call("_linalg_solve_ex", square(), x(4), outputs=1, cut="!! !")
call("linalg_solve_triangular", square(3), x(3, 4, 5), upper=True, cut="1!! 1!1")
call("linalg_solve_triangular", square(), x(5, 4), upper=False, left=False, cut="!! 1!")
call("_linalg_eigh", square(), cut="!!")
call("_linalg_eigh", square(), "L", False, outputs=1, cut="!!")
call("_linalg_svd", square(), cut="!!")
call("_linalg_svd", square(), False, False, outputs=2, cut="!!")
call("_linalg_svd", x(3, 4, 5), cut="...")
# deformable convolutions with offsets for runs of channels
deform((4, 6), 1, 2, ".1.. 11.. .1.. .1.. 1")
deform((4, 6), 1, 2, ".1.. 11.. .1.. .. 1", masked=False)
deform((4, 6), 2, 2, ".1.. 11.. .1.. .1.. 1")
deform((8, 6), 2, 4, ".1.. 11.. .1.. .1.. 1")
deform((8, 8), 4, 2, ".1.. 11.. .1.. .1.. 1")
deform((6, 6), 3, 2, ".... .... .... .... .")

call("diagonal_copy", x(3, 4, 4), 0, 1, 2, cut="111")
call("diag_embed", x(4), cut="1")
call("diag_embed", x(3, 4), 0, 0, -1, cut="11")
call("diag_embed", x(3, 4), 1, cut="1.")

# ---- backward ---------------------------------------------------------------------------------

for op in """
    gelu hardsigmoid hardswish logit mish sigmoid silu tanh
""".split():
    call(f"{op}_backward", x(3, 4), x(3, 4), cut="11 11")
# of many numbers, as some must lie within, whatever is drawn before
call("threshold_backward", x(8, 9), x(8, 9), 0.4, cut="11 11")
call("hardtanh_backward", x(8, 9), x(8, 9), 0.2, 0.7, cut="11 11")
call("leaky_relu_backward", x(3, 4), x(3, 4) - 0.5, 0.1, False, cut="11 11")
call("elu_backward", x(3, 4), 1.0, 1.0, 1.0, False, x(3, 4) - 0.5, cut="11 11")
call("softplus_backward", x(3, 4), x(3, 4), 1.0, 20.0, cut="11 11")
call("softshrink_backward", x(3, 4), x(3, 4), 0.3, cut="11 11")
call("hardshrink_backward", x(3, 4), x(3, 4), 0.3, cut="11 11")
call("log_sigmoid_backward", x(3, 4), x(3, 4), x(3, 4), cut="11 11 11")
call("native_dropout_backward", x(3, 4), bits(3, 4), 2.0, cut="11 11")
call("_softmax_backward_data", x(3, 4, 5), x(3, 4, 5), 1, torch.float64, cut="1!1 1!1")
call("_log_softmax_backward_data", x(3, 4), x(3, 4), -1, torch.float64, cut="1! 1!")
for size, kinds in (
    ([6], "nearest linear"),
    ([6, 8], "nearest bilinear"),
    ([6, 8, 4], "nearest trilinear"),
):
    for kind in kinds.split():
        given = x(2, 3, *size), size, [2, 3, *(n // 2 for n in size)]
        aligned = (False,) if kind != "nearest" else ()
        call(f"upsample_{kind}{len(size)}d_backward", *given, *aligned, cut="11" + "." * len(size))
call("upsample_bicubic2d_backward", x(2, 3, 6, 8), [6, 8], [2, 3, 3, 4], False, cut="11..")
call("_adaptive_avg_pool2d_backward", x(2, 3, 2, 2), x(2, 3, 6, 8), cut="11.. 11..")
call("_adaptive_avg_pool3d_backward", x(2, 3, 2, 2, 2), x(2, 3, 6, 8, 4), cut="11... 11...")
pool = ([2, 2], [2, 2], [0, 0], False, True, None)
call("avg_pool2d_backward", x(2, 3, 3, 4), x(2, 3, 6, 8), *pool, cut="11.. 11..")
pool3 = ([2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None)
call("avg_pool3d_backward", x(2, 3, 3, 4, 2), x(2, 3, 6, 8, 4), *pool3, cut="11... 11...")
big = x(2, 3, 6, 8)
where = torch.ops.aten.max_pool2d_with_indices(big, [2, 2])[1]
largest = ([2, 2], [2, 2], [0, 0], [1, 1], False)
call("max_pool2d_with_indices_backward", x(2, 3, 3, 4), big, *largest, where, cut="11.. 11.. 11..")
big = x(2, 3, 6, 8, 4)
where = torch.ops.aten.max_pool3d_with_indices(big, [2, 2, 2])[1]
largest = ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False)
call(
    "max_pool3d_with_indices_backward",
    x(2, 3, 3, 4, 2),
    big,
    *largest,
    where,
    cut="11... 11... 11...",
)

every = [True, True, True]
call("native_layer_norm_backward", x(3, 4, 5), x(3, 4, 5), [5], x(3, 4, 1), x(3, 4, 1), x(5), x(5), every,
     outputs=1, cut="11! 11! 11. 11. ! !")  # fmt: skip
call("native_group_norm_backward", x(2, 6, 5), x(2, 6, 5), x(2, 3), x(2, 3), x(6), 2, 6, 5, 3, every,
     outputs=1, cut="1!. 1!. 11 11 !")  # fmt: skip
call("native_batch_norm_backward", x(2, 3, 5), x(2, 3, 5), x(3), x(3), x(3), x(0), x(0), False, 1e-5, every,
     outputs=1, cut="11. 11. 1 1 1 . .")  # fmt: skip
call("native_batch_norm_backward", x(2, 3, 5), x(2, 3, 5), x(3), None, None, x(3), x(3), True, 1e-5, every,
     outputs=1, cut="!1! !1! 1 1 1")  # fmt: skip
moves = ([1, 1], [0, 0], [1, 1])
call("convolution_backward", x(2, 6, 3, 4), x(2, 4, 5, 6), x(6, 2, 3, 3), [6], *moves, False, [0, 0], 2, every,
     outputs=1, cut="11.. 11.. 11..")  # fmt: skip
call("convolution_backward", x(2, 6, 7, 8), x(2, 4, 5, 6), x(4, 3, 3, 3), [6], *moves, True, [0, 0], 2, every,
     outputs=1, cut="11.. 11.. 11..")  # fmt: skip

# ---- read by strides --------------------------------------------------------------------------

call("as_strided", x(3, 12, 5), [3, 3, 6, 5], [60, 15, 5, 1], cut="1.1")
call("as_strided", x(3, 2, 4, 5), [3, 3, 4, 5], [40, 10, 5, 1], cut="1..1")
turned = x(12, 3, 5).transpose(0, 1)
call("as_strided", turned, [3, 3, 6, 5], [5, 45, 15, 1], cut="1.1", resizes=False)
call("as_strided", x(3, 12), [3, 4, 6], [12, 2, 1], cut="1.")
call("as_strided", x(3, 4, 5), [3, 4, 5], [20, 1, 4], cut="1..")
call("as_strided", x(3, 5), [5, 3], [1, 4], cut="..")
