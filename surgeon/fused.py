"""Attention as one op in the oracle's masked run: quicker in float64 than its plain ops, with the same masks.

Only where no position is removed and the mask of scores is whole; else the run is refused, and made again with plain ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from surgeon.graph import Node
from surgeon.rules import Form, Rule

FUSED: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_LINE = "b (g r) q d, b g k d, b g k e -> b (g r) q e, b (g r) q"  # g: heads of keys, r: of queries to each


def _form(node: Node) -> Form:
    return Form(_LINE, {"g": node.args[1].shape[1]}, at=(0, 1, 2))


RULE = Rule(str(FUSED), "contraction", (_LINE,), choose=_form)


def in_one(mask: Callable[[Tensor], Tensor], args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the notation holds: of heads, and of their channels, some are removed, but no position, and nothing of the mask that
    is added to the scores. Channels that are zero leave the default scale as it is."""
    q, k, v = args[:3]
    added = kwargs.get("attn_mask")
    if added is not None and bool(mask(added).any()):
        return False
    return not any(bool((gone != gone[:, :, :1]).any()) for gone in map(mask, (q, k, v)))
