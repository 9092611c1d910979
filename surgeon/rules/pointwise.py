"""Ops that keep every dimension: an explicit list. An op that is not on it is not pointwise."""

from __future__ import annotations

from surgeon.graph import Node, Value
from surgeon.rules.registry import Form, chooses

IDENTITY = """
    alias clone contiguous detach lift_fresh lift_fresh_copy _to_copy to positive
    dropout native_dropout alpha_dropout feature_dropout fill zero copy bernoulli
    zeros_like ones_like full_like empty_like rand_like randn_like randint_like
    uniform exponential log_normal cauchy geometric random
""".split()

UNARY = """
    abs acos acosh angle asin asinh atan atanh bitwise_not ceil celu clamp clamp_min clamp_max _conj cos
    cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 fake_quantize_per_tensor_affine_cachemask
    floor frac gelu hardshrink hardsigmoid hardswish hardtanh i0 isfinite isinf isnan isneginf isposinf
    leaky_relu lgamma log log10 log1p log2 log_sigmoid_forward logical_not logit mish mvlgamma nan_to_num
    neg _neg_view poisson polygamma rad2deg reciprocal relu relu6 round rrelu_with_noise rsqrt selu sgn
    sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt square tan tanh threshold trunc
    special_bessel_j0 special_bessel_j1 special_entr special_erfcx special_i0e special_i1 special_i1e
    special_log_ndtr special_modified_bessel_i0 special_modified_bessel_i1 special_ndtri
""".split()

BINARY = """
    add addcdiv addcmul atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
    complex copysign div eq floor_divide fmax fmin fmod ge gt heaviside hypot igamma igammac ldexp le lerp
    logaddexp logaddexp2 logical_and logical_or logical_xor __lshift__ lt masked_fill maximum minimum mul
    ne nextafter polar pow _prelu_kernel remainder __rshift__ rsub special_xlog1py special_zeta sub
    true_divide where xlogy
""".split()


SUMS = (
    "add addcdiv addcmul lerp rsub sub".split()
)  # what is added here may come from several layers

SCALES = """
    alias clone contiguous detach lift_fresh lift_fresh_copy _to_copy to positive dropout native_dropout
    alpha_dropout feature_dropout div mul neg true_divide
""".split()  # linear in each of their tensors

_FORMS = ("... -> ...", "..., ... -> ...", "..., ..., ... -> ...")


def pointwise(node: Node) -> Form:
    """Every tensor argument passes through, broadcast from the right."""
    at = tuple(i for i, arg in enumerate(node.args) if isinstance(arg, Value))
    outputs = ", ".join("..." for _ in node.outputs)
    return Form(", ".join("..." for _ in at) + " -> " + outputs, at=at)


for _name in (*IDENTITY, *UNARY, *BINARY):
    _sense = "sum" if _name in SUMS else "scale" if _name in SCALES else ""
    chooses(f"aten.{_name}", family="pointwise", forms=_FORMS, sense=_sense)(pointwise)


@chooses("aten.normal", family="pointwise", forms=_FORMS)
def normal(node: Node) -> Form:
    """(mean, spread), numbers or tensors; of two numbers and a size every position is drawn by itself."""
    drawn = not any(isinstance(arg, Value) for arg in node.args)
    return Form("-> *", at=()) if drawn else pointwise(node)
