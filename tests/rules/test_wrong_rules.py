"""Rules that are wrong in the ways rules go wrong: the real op catches each of them.

Extents are equal where that hides the mistake from every check of sizes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from probe import Sample, check_op, coupled, known
from samples import x

from surgeon.rules import RULES, Form, Rule, Site

torch.set_num_threads(1)


def identity(site: Site) -> Any:
    return site.x


def backwards(site: Site) -> Any:
    return site.x[::-1]


def pointwise(site: Site) -> Any:
    """cat as a sum."""
    a, b = (site.dims(v) for v in site.node.args[0])
    site.algebra.equate(a[0], b[0])
    return a


def left_to_right(site: Site) -> Any:
    """A merge of two dimensions in the wrong order."""
    return (site.x[1] + site.x[0],)


def every_other(site: Site) -> Any:
    """glu's halves as even and odd channels."""
    (c,) = site.x
    halves = [site.algebra.take(c, np.arange(k, 8, 2)) for k in (0, 1)]
    site.algebra.equate(*halves)
    return (halves[0],)


def blocks_first(site: Site) -> Any:
    """pixel_shuffle's channels as (r s c)."""
    n, c, h, w = site.x
    r, s, own = site.algebra.split(c, [2, 2, 2])
    site.algebra.freeze(r + s, "pixels")
    return (n, own, h + r, w + s)


def first_last(site: Site) -> Any:
    """cat with its operands exchanged."""
    a, b = (site.dims(v) for v in site.node.args[0])
    return (site.algebra.concat([b[0], a[0]]),)


def copies_inside(site: Site) -> Any:
    """repeat as repeat_interleave."""
    return (site.x[0] + site.algebra.fresh(2, "repeat"),)


CONV = [1, 1], [0, 0], [1, 1]
WRONG: dict[str, tuple[str, str | Callable[[Site], Any], tuple[Any, ...]]] = {
    "flip is the identity": ("flip", identity, (x(6), [0])),
    "roll is the identity": ("roll", identity, (x(6), [2], [0])),
    "transpose is the identity": ("transpose.int", identity, (x(4, 4), 0, 1)),
    "permute is backwards": ("permute", backwards, (x(4, 4, 4), [1, 2, 0])),
    "a gather is the identity": ("index_select", identity, (x(6), 0, known(3, 1, 0, 5, 4, 2))),
    "view merges in the wrong order": ("view", left_to_right, (x(3, 4), [12])),
    "glu takes every other channel": ("glu", every_other, (x(8), 0)),
    "pixel shuffle splits in the wrong order": ("pixel_shuffle", blocks_first, (x(2, 8, 3, 3), 2)),
    "channel shuffle is the identity": ("channel_shuffle", identity, (x(2, 6, 3), 2)),
    "cat is pointwise": ("cat", pointwise, ([x(4), x(4)],)),
    "cat joins in the wrong order": ("cat", first_last, ([x(4), x(4)],)),
    "repeat interleaves": ("repeat", copies_inside, (x(4), [2])),
    "linear has o and i exchanged": ("linear", "... i, i o, o -> ... o", (x(2, 4), x(4, 4), x(4))),
    "mm contracts the second's rows": ("mm", "m k, n k -> m n", (x(4, 4), x(4, 4))),
    "mm contracts nothing": ("mm", "m k, k n -> m k", (x(4, 4), x(4, 4))),
    "embedding lets rows go": ("embedding", "r c, * -> * c", (x(6, 4), known(1, 5, 2))),
    "conv makes what it takes": (
        "convolution", "n (g o) *, (g o) i *, (g i) -> n (g i) *", (x(2, 4, 5, 5), x(4, 4, 3, 3), x(4), *CONV, False, [0, 0], 1),
    ),
    "a transposed conv is a conv": (
        "convolution", "n (g i) *, (g o) i *, (g o) -> n (g o) *", (x(2, 4, 5, 5), x(4, 4, 3, 3), x(4), *CONV, True, [0, 0], 1),
    ),
    "a conv lets its kernel go": (
        "convolution", "n (g i) _ _, (g o) i h _ -> n (g o) _ _", (x(2, 4, 5, 5), x(4, 4, 3, 3), None, *CONV, False, [0, 0], 1),
    ),
    "batch norm is along the batch": (
        "native_batch_norm", "c n *, c, c, c, c -> c n *, *, *", (x(4, 4, 2), x(4), x(4), x(4), x(4), False, 0.1, 1e-5),
    ),
    "group norm does not mix": (
        "native_group_norm", "n (g c) *, (g c), (g c) -> n (g c) *, *, *", (x(2, 6, 3), x(6), x(6), 2, 6, 3, 2, 1e-5),
    ),
    "layer norm does not mix": ("native_layer_norm", "... c -> ... c, *, *", (x(3, 4), [4], None, None, 1e-5)),
    "softmax does not mix": ("_softmax", "... -> ...", (x(3, 4), 1, False)),
    "cumsum is pointwise": ("cumsum", "... -> ...", (x(3, 4), 1)),
    "a mean is exact": ("mean.dim", "a b -> a", (x(3, 4), [1])),
    "a maximum is exact": ("amax", "a b -> a", (-x(3, 4), [1])),
    "a sum keeps the wrong dimension": ("sum.dim_IntList", "a b -> a", (x(4, 4), [0])),
    "max pooling is per pixel": (
        "max_pool2d_with_indices", "... h w -> ... h w, ... h w", (x(1, 2, 4, 4), [3, 3], [1, 1], [1, 1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught(name: str, monkeypatch: pytest.MonkeyPatch):
    op, wrong, args = WRONG[name]
    full = f"aten.{op}" if "." in op else f"aten.{op}.default"
    sample = Sample(full, args, {}, "", outputs=1)
    right = RULES[sample.packet]
    check_op(coupled(sample))
    monkeypatch.setitem(RULES, right.op, wronged(right, wrong))
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        check_op(coupled(sample))


def wronged(right: Rule, wrong: str | Callable[[Site], Any]) -> Rule:
    """A rule of the same op with another meaning; factors keep the sizes they had."""
    if not isinstance(wrong, str):
        return Rule(right.op, right.family, (), move=wrong)
    groups = {"g": 2 if "norm" in right.op else 1}
    return Rule(right.op, right.family, (), choose=lambda _: Form(wrong, groups))
