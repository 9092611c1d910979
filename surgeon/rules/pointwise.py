"""Ops that keep every dimension: an explicit list. An op that is not on it is not pointwise."""

from __future__ import annotations

from surgeon.graph import Node, Value
from surgeon.rules.registry import Form, chooses

IDENTITY = """
    alias clone contiguous detach lift_fresh lift_fresh_copy _to_copy to positive
    dropout native_dropout alpha_dropout feature_dropout fill zero copy bernoulli
    zeros_like ones_like full_like empty_like rand_like randn_like
""".split()

UNARY = """
    abs acos acosh asin asinh atan atanh bitwise_not ceil celu clamp clamp_min clamp_max cos cosh elu
    erf erfc erfinv exp exp2 expm1 floor frac gelu hardshrink hardsigmoid hardswish hardtanh isfinite
    isinf isnan leaky_relu log log10 log1p log2 log_sigmoid_forward logical_not logit mish nan_to_num neg
    reciprocal relu relu6 round rsqrt selu sgn sigmoid sign silu sin sinh softplus softshrink
    sqrt square tan tanh threshold trunc
""".split()

BINARY = """
    add addcdiv addcmul atan2 bitwise_and bitwise_or bitwise_xor copysign div eq floor_divide fmax
    fmin fmod ge gt hypot le lerp logical_and logical_or logical_xor lt masked_fill maximum minimum mul
    ne pow _prelu_kernel remainder rsub sub true_divide where xlogy
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
