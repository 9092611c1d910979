"""Norms and softmax: per channel where they keep it, mixing where their statistics run over it."""

from __future__ import annotations

from surgeon.graph import Node
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "normalization"

BATCH_NORM = "n c *, c, c, c, c -> n c *, *, *"
factor("aten._native_batch_norm_legit_no_training", BATCH_NORM, family=FAMILY)


OWN_STATISTICS = "n! c a! b!, c, c, c, c -> n! c a! b!, c, c"


@chooses(
    "aten.native_batch_norm", "aten.cudnn_batch_norm", family=FAMILY,
    forms=(BATCH_NORM, OWN_STATISTICS),
)  # fmt: skip
def batch_norm(node: Node) -> Form:
    """With the batch's own statistics, argument 5, all but the channels mix: a standardised weight's
    input channels lie there."""
    if not node.args[
        5
    ]:  # on meta tensors the batch's own statistics are there, though nothing fills them
        saved = node.outputs[1]
        return Form(
            BATCH_NORM.replace("*, *, *", "*, c, c") if saved and saved.shape[0] else BATCH_NORM
        )
    rank = len(node.args[0].shape)
    x = " ".join(["n!", "c", *(f"{k}!" for k in "abdefgh"[: rank - 2])])
    return Form(f"{x}, c, c, c, c -> {x}, c, c")


# (x, weight, bias, N, C, HxW, group, eps): statistics over the channels of a group and over space
GROUP_NORM = "n (g c!) *, (g c), (g c) -> n (g c!) *, n g, n g"


@chooses("aten.native_group_norm", family=FAMILY, forms=(GROUP_NORM,))
def native_group_norm(node: Node) -> Form:
    """Whole groups may go exactly; channels within a group mix."""
    return Form(GROUP_NORM, {"g": node.arg(6)})


@chooses("aten.native_layer_norm", family=FAMILY, forms=("... c!, c, c -> ... c!, ... 1, ... 1",))
def native_layer_norm(node: Node) -> Form:
    """Statistics over all of `normalized_shape`, which may have several dimensions."""
    letters = "abcdefgh"[: len(node.args[1])]
    own, mixed = " ".join(letters), " ".join(x + "!" for x in letters)
    ones = f"... {' '.join('1' for _ in letters)}"
    return Form(f"... {mixed}, {own}, {own} -> ... {mixed}, {ones}, {ones}", at=(0, 2, 3))


@chooses("aten._fused_rms_norm", family=FAMILY, forms=("... c!, c -> ... c!, *",))
def fused_rms_norm(node: Node) -> Form:
    """As layer norm, without a bias."""
    letters = "abcdefgh"[: len(node.args[1])]
    own, mixed = " ".join(letters), " ".join(x + "!" for x in letters)
    return Form(f"... {mixed}, {own} -> ... {mixed}, *", at=(0, 2))


@chooses(
    "aten._softmax", "aten._log_softmax", "aten._safe_softmax", "aten.cumsum", "aten.cumprod",
    "aten.logcumsumexp", "aten.cummax", "aten.cummin", family=FAMILY, forms=("a k! b -> a k! b",),
)  # fmt: skip
def along_one(node: Node) -> Form:
    """Every output element along dimension k depends on others along k; cummax tells where it was, too."""
    rank, along = len(node.args[0].shape), ""
    terms = list("abcdefgh"[:rank])
    if rank:
        along = terms[node.args[1] % rank]
        terms[node.args[1] % rank] += "!"
    line = " ".join(terms)
    told = along if len(node.outputs) > 1 else ""
    return Form(f"{line} -> {', '.join(line for _ in node.outputs)}", at=(0,), told=told)


@chooses("aten.renorm", family=FAMILY, forms=("a k b -> a k b",))
def renorm(node: Node) -> Form:
    """(x, p, dim, maxnorm): each slice of `dim` is made no longer than maxnorm."""
    rank = len(node.args[0].shape)
    own = node.args[2] % rank
    line = " ".join(x if d == own else f"{x}!" for d, x in enumerate("abcdefgh"[:rank]))
    return Form(f"{line} -> {line}", at=(0,))


@chooses("aten._weight_norm_interface", family=FAMILY, forms=("o i! *, o 1 1 -> o i *, o 1 1",))
def weight_norm(node: Node) -> Form:
    """(v, g, dim): a direction and a length per slice of `dim`; the norm mixes over all else."""
    rank = len(node.args[0].shape)
    letters, dim = "abcdefgh"[:rank], node.arg(2, 0) % rank
    mixed = " ".join(x if d == dim else f"{x}!" for d, x in enumerate(letters))
    length = " ".join(x if d == dim else "1" for d, x in enumerate(letters))
    return Form(f"{mixed}, {length} -> {' '.join(letters)}, {length}")
