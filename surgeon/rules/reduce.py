"""Reductions: over space to a pooled map, or over named dimensions."""

from __future__ import annotations

from surgeon.graph import Node, Value
from surgeon.rules.registry import Form, chooses, factor

FAMILY = "reduction"

for _op, _line in {
    "max_unpool2d": "... _ _, ... _ _ -> ... _ _",
    "max_unpool3d": "... _ _ _, ... _ _ _ -> ... _ _ _",
    "_adaptive_avg_pool2d": "... _ _ -> ... _ _",
    "_adaptive_avg_pool3d": "... _ _ _ -> ... _ _ _",
    "adaptive_max_pool2d": "... _ _ -> ... _ _, ... _ _",
    "adaptive_max_pool3d": "... _ _ _ -> ... _ _ _, ... _ _ _",
    "upsample_linear1d": "n c * -> n c *",
    "upsample_bilinear2d": "n c * -> n c *",
    "upsample_bicubic2d": "n c * -> n c *",
    "upsample_trilinear3d": "n c * -> n c *",
    "_upsample_bilinear2d_aa": "n c * -> n c *",
    "_upsample_bicubic2d_aa": "n c * -> n c *",
    "grid_sampler_2d": "n c _ _, n * -> n c _ _",
    "grid_sampler_3d": "n c _ _ _, n * -> n c _ _ _",
    "reflection_pad1d": "... _ -> ... _",
    "reflection_pad2d": "... _ _ -> ... _ _",
    "reflection_pad3d": "... _ _ _ -> ... _ _ _",
    "replication_pad1d": "... _ -> ... _",
    "replication_pad2d": "... _ _ -> ... _ _",
    "replication_pad3d": "... _ _ _ -> ... _ _ _",
}.items():
    factor(f"aten.{_op}", _line, family=FAMILY)


def reduced(node: Node, dims: object, keepdim: bool, mark: str) -> str:
    """'a b c! -> a b' for a reduction over the last of three dimensions; `mark` is '!' or ''."""
    rank = len(node.args[0].shape)
    over = _dims(dims, rank)
    letters = "abcdefghijk"[:rank]
    left = " ".join(x + mark if i in over else x for i, x in enumerate(letters))
    kept = "1" if keepdim else ""
    right = " ".join(filter(None, (kept if i in over else x for i, x in enumerate(letters))))
    return f"{left} -> {right}"


def _dims(dims: object, rank: int) -> set[int]:
    if isinstance(dims, int):
        return {dims % max(rank, 1)}
    if isinstance(dims, (list, tuple)) and dims:
        return {d % max(rank, 1) for d in dims}
    return set(range(rank))


@chooses("aten.sum", "aten.nansum", family=FAMILY, forms=("a b -> a",))
def exact_sum(node: Node) -> Form:
    """(x, dims, keepdim): a masked element adds nothing."""
    return Form(reduced(node, node.arg(1), node.arg(2, False), ""), at=(0,))


@chooses("aten.linalg_vector_norm", "aten.norm", family=FAMILY, forms=("a b! -> a",))
def vector_norm(node: Node) -> Form:
    """(x, ord, dims, keepdim). Mixing: with ord = -inf or 0 a masked zero would count."""
    return Form(reduced(node, node.arg(2), node.arg(3, False), "!"), at=(0,))


@chooses(
    "aten.mean", "aten.amax", "aten.amin", "aten.logsumexp", "aten.any", "aten.all", "aten.prod",
    "aten._is_all_true", "aten._is_any_true",
    family=FAMILY, forms=("a b! -> a",),
)  # fmt: skip
def mixing(node: Node) -> Form:
    """(x, dims, keepdim): the result depends on how many or which elements there are."""
    return Form(reduced(node, node.arg(1), node.arg(2, False), "!"), at=(0,))


@chooses("aten.count_nonzero", family=FAMILY, forms=("a b! -> a",))
def counted(node: Node) -> Form:
    """(x, dims). Mixing: what is no number is not zeroed where it is masked."""
    return Form(reduced(node, node.arg(1), False, "!"), at=(0,))


@chooses("aten.dist", family=FAMILY, forms=("a! b!, a! b! ->",))
def distance(node: Node) -> Form:
    """(x, y, p): one number of two tensors that broadcast. Mixing: see `vector_norm`."""
    letters = [f"{x}!" for x in "abcdefgh"][: max(len(v.shape) for v in node.args[:2])]
    x, y = (" ".join(letters[len(letters) - len(v.shape) :]) for v in node.args[:2])
    return Form(f"{x}, {y} ->")


@chooses("aten.trace", family=FAMILY, forms=("k k ->",))
def trace(node: Node) -> Form:
    """The sum of what lies at (k, k)."""
    rows, columns = node.args[0].shape
    return Form("k k ->" if rows == columns else "_ _ ->")


@chooses(
    "aten.var", "aten.std", "aten.var_mean", "aten.std_mean", family=FAMILY, forms=("a b! -> a",)
)
def spread_of(node: Node) -> Form:
    """(x, dims, *, correction, keepdim), or the older (x, dims, unbiased, keepdim)."""
    keep = node.kwargs.get("keepdim", node.arg(3, False))
    line = reduced(node, node.arg(1), keep, "!")
    out = line.split(" -> ")[1]
    return Form(line + f", {out}" * (len(node.outputs) - 1), at=(0,))


@chooses(
    "aten.max", "aten.min", "aten.median", "aten.nanmedian", "aten.mode", "aten.aminmax",
    family=FAMILY, forms=("a b! -> a", "a b! -> a, a"),
)  # fmt: skip
def extreme(node: Node) -> Form:
    """(x), or (x, dim, keepdim) with the position as a second output; mode means the last dimension
    where it is told none. aminmax takes keywords."""
    over = node.kwargs.get("dim", node.arg(1, -1 if node.op.startswith("aten.mode") else None))
    line = reduced(node, over, node.kwargs.get("keepdim", node.arg(2, False)), "!")
    more = len(node.outputs) - 1
    told = more > 0 and not node.op.startswith("aten.aminmax")
    left, right = line.split(" -> ")
    mixing = "".join(x[0] for x in left.split() if x.endswith("!"))
    return Form(line + f", {right}" * more, at=(0,), told=mixing if told else "")


_NOTHING_LOST = ("aten.mse_loss", "aten.smooth_l1_loss", "aten.huber_loss")  # of two zeros


@chooses(
    "aten.mse_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.soft_margin_loss",
    "aten.binary_cross_entropy", "aten.binary_cross_entropy_with_logits",
    family=FAMILY, forms=("..., ... -> ...", "a! b!, a! b! ->"),
)  # fmt: skip
def loss(node: Node) -> Form:
    """(x, target, ..., reduction), weights between them: element by element; their mean, or their sum."""
    at = tuple(i for i, arg in enumerate(node.args) if isinstance(arg, Value))
    how = next((a for a in node.args[2:] if type(a) is int), 1)
    how = node.kwargs.get("reduction", how)
    if how == 0:
        return Form(", ".join("..." for _ in at) + " -> ...", at=at)
    mark = "" if how == 2 and node.op.rsplit(".", 1)[0] in _NOTHING_LOST else "!"
    letters = [x + mark for x in "abcdefgh"][: max(len(node.args[i].shape) for i in at)]
    terms = (" ".join(letters[len(letters) - len(node.args[i].shape) :]) for i in at)
    return Form(", ".join(terms) + " ->", at=at)


@chooses(
    "aten.nll_loss_forward", "aten.nll_loss2d_forward", family=FAMILY,
    forms=("n _ *, n *, _ -> n *,",),
)  # fmt: skip
def class_loss(node: Node) -> Form:
    """(x, class, weight, reduction, ...): of each example the score of one class."""
    rank, at = len(node.args[0].shape), (0, 1) if node.arg(2) is None else (0, 1, 2)
    space = " *" if rank > 2 else ""
    x, which = ("_", "") if rank == 1 else (f"_ _{space}", f"_{space}")
    out = which if node.arg(3, 1) == 0 else ""
    return Form(f"{x}, {which}{', _' if len(at) == 3 else ''} -> {out},", at=at)


factor("aten.histc", "* -> *", family=FAMILY)
factor("aten.bincount", "* -> *", family=FAMILY)


@chooses("aten.argmax", "aten.argmin", family=FAMILY, forms=("a _ -> a",))
def position(node: Node) -> Form:
    """(x, dim, keepdim): the result is a position, so the dimension is read by position."""
    line = reduced(node, node.arg(1), node.arg(2, False), "!")
    left, right = line.split(" -> ")
    opaque = " ".join("_" if "!" in x else x for x in left.split())
    return Form(f"{opaque} -> {right}", at=(0,))


@chooses(
    "aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c", family="transform", forms=("a _ -> a _",)
)  # fmt: skip
def fourier(node: Node) -> Form:
    """(x, dims, ...): along these every output needs every input, at its place."""
    rank = len(node.args[0].shape)
    over = _dims(node.args[1], rank) if node.args[1] else set()
    line = " ".join("_" if i in over else x for i, x in enumerate("abcdefghijk"[:rank]))
    return Form(f"{line} -> {line}", at=(0,))
