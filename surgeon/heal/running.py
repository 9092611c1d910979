"""How the dense and the slim network are run on data: plain ops, no gradients, at the library's own speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from surgeon.trace.caches import caches_off
from surgeon.trace.mode import plain_attention, uncompiled


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """A context for runs."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        caches_off(model),
        plain_attention(),
        uncompiled(),
    ):
        yield
