"""Whether a cut language model still runs with its cache on, as its users call it: it is traced and proven without."""

from __future__ import annotations

import torch
from torch import nn

from surgeon.quiet import mute
from surgeon.running import as_dtype
from surgeon.trace.caches import has_caches
from surgeon.trace.inputs import Inputs


def cache_notes(model: nn.Module, slim: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """What to say where the original runs with its cache and the cut copy does not: a size that only that code reads
    stays the original's. Nothing where there is no cache, or a program, which has none."""
    if not has_caches(model) or not has_caches(slim) or _fails(model, inputs):
        return ()
    why = _fails(slim, inputs)
    if not why:
        return ()
    return (f"with its cache on, the cut network fails ({why}): call it with use_cache=False",)


def _fails(model: nn.Module, inputs: Inputs) -> str:
    try:
        with mute(), torch.no_grad():
            inputs.map(torch.clone).run(as_dtype(model, None))
    except Exception as error:  # noqa: BLE001  the model's own, whatever it is
        return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return ""
