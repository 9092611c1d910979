"""Attention as one op in the oracle's masked run: several times quicker in float64 than its plain ops, with the same masks.

Only where no position is removed and the mask of scores is whole; else the run is refused, and made again with plain ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from surgeon.rules import Form, Rule

FUSED: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_FORM = Form("b h q d, b h k d, b h k e -> b h q e, b h q", at=(0, 1, 2))
RULE = Rule(str(FUSED), "contraction", (_FORM.text,), choose=lambda _node: _FORM)


def in_one(mask: Callable[[Tensor], Tensor], args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the notation holds: as many heads everywhere, of which, and of whose channels, some are removed; no position is,
    and nothing of the mask that is added to the scores. Channels that are zero leave the default scale as it is."""
    q, k, v = args[:3]
    added = kwargs.get("attn_mask")
    if not q.shape[1] == k.shape[1] == v.shape[1] or (added is not None and mask(added).any()):
        return False
    return not any(bool((gone != gone[:, :, :1]).any()) for gone in map(mask, (q, k, v)))
