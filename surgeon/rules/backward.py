"""Gradients that a forward asks for itself: forces of an energy, gradient penalties, guidance."""

from __future__ import annotations

from surgeon.graph import Node
from surgeon.rules.normalize import along_one
from surgeon.rules.pointwise import pointwise
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "backward"

ELEMENTWISE = """
    elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid logit mish native_dropout
    sigmoid silu softplus softshrink tanh threshold
""".split()

for _name in ELEMENTWISE:
    chooses(f"aten.{_name}_backward", family=FAMILY, forms=("..., ... -> ...",))(pointwise)

UPSAMPLED = "nearest1d nearest2d nearest3d linear1d bilinear2d bicubic2d trilinear3d".split()
for _name in UPSAMPLED:
    factor(f"aten.upsample_{_name}_backward", "n c * -> n c *", family=FAMILY)
factor("aten._adaptive_avg_pool2d_backward", "... _ _, ... _ _ -> ... _ _", family=FAMILY)
factor("aten._adaptive_avg_pool3d_backward", "... _ _ _, ... _ _ _ -> ... _ _ _", family=FAMILY)
factor("aten.avg_pool2d_backward", "... _ _, ... _ _ -> ... _ _", family=FAMILY)
factor("aten.avg_pool3d_backward", "... _ _ _, ... _ _ _ -> ... _ _ _", family=FAMILY)
factor("aten.max_pool2d_with_indices_backward", "... _ _, ... _ _, ... _ _ -> ... _ _",
       family=FAMILY, at=(0, 1, 7))  # fmt: skip
factor("aten.max_pool3d_with_indices_backward", "... _ _ _, ... _ _ _, ... _ _ _ -> ... _ _ _",
       family=FAMILY, at=(0, 1, 7))  # fmt: skip


@chooses("aten._softmax_backward_data", "aten._log_softmax_backward_data", family=FAMILY,
         forms=("a k! b, a k! b -> a k! b",))  # fmt: skip
def softmax(node: Node) -> Form:
    """(gradient, result, dim, dtype)"""
    line = along_one(
        Node(0, node.op, node.target, (node.args[0], node.args[2]), {}, (None,), "", "?")
    )
    x = line.text.split(" -> ")[0]
    return Form(f"{x}, {x} -> {x}", at=(0, 1))


@chooses("aten.native_layer_norm_backward", family=FAMILY,
         forms=("... c!, ... c!, ... 1, ... 1, c, c -> ... c!, c, c",))  # fmt: skip
def layer_norm(node: Node) -> Form:
    """(gradient, x, shape, mean, 1 / deviation, weight, bias, which)"""
    letters = "abcdefgh"[: len(node.args[2])]
    own, x = " ".join(letters), f"... {' '.join(f'{letter}!' for letter in letters)}"
    ones = f"... {' '.join('1' for _ in letters)}"
    line = f"{x}, {x}, {ones}, {ones}, {own}, {own} -> {x}, {own}, {own}"
    return Form(line, at=(0, 1, 3, 4, 5, 6))


_GROUPS = "n (g c!) *, n (g c!) *, n g, n g, (g c) -> n (g c!) *, (g c), (g c)"


@chooses("aten.native_group_norm_backward", family=FAMILY, forms=(_GROUPS,))
def group_norm(node: Node) -> Form:
    """(gradient, x, mean, 1 / deviation, weight, N, C, HxW, group, which)"""
    return Form(_GROUPS, {"g": node.arg(8)})


_BATCH = "n c *, n c *, c, c, c -> n c *, c, c"
_OWN = "n! c a! b!, n! c a! b!, c, c, c -> n! c a! b!, c, c"


@chooses("aten.native_batch_norm_backward", family=FAMILY, forms=(_BATCH, _OWN))
def batch_norm(node: Node) -> Form:
    """(gradient, x, weight, running mean and variance, the batch's own, training, eps, which)"""
    if not node.args[7]:
        return Form(_BATCH)
    rank = len(node.args[0].shape)
    x = " ".join(["n!", "c", *(f"{k}!" for k in "abdefgh"[: rank - 2])])
    return Form(f"{x}, {x}, c, c, c -> {x}, c, c", at=(0, 1, 2, 5, 6))


_CONV = "n (g o) *, n (g i) *, (g o) i * -> n (g i) *, (g o) i *, (g o)"
_CONV_TRANSPOSED = "n (g o) *, n (g i) *, (g i) o * -> n (g i) *, (g i) o *, (g o)"


@chooses("aten.convolution_backward", family=FAMILY, forms=(_CONV, _CONV_TRANSPOSED))
def convolution(node: Node) -> Form:
    """(gradient, x, weight, bias's size, stride, padding, dilation, transposed, more, groups, which)"""
    return Form(_CONV_TRANSPOSED if node.arg(7) else _CONV, {"g": node.arg(9)}, at=(0, 1, 2))
