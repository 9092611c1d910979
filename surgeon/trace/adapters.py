"""Adapters that peft puts beside a layer: cut with it, but for a rank, which a configuration outside of the network names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from surgeon.trace.modules import first_paths

_KIND = "peft.tuners.tuners_utils"  # loaded where a model has one


def adapters(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Paths and modules of the layers that hold adapters."""
    peft = sys.modules.get(_KIND)
    if peft is None:
        return
    for module, path in first_paths(model).items():
        if isinstance(module, peft.BaseTunerLayer):
            yield path, module


def fixed_ranks(model: nn.Module) -> dict[tuple[str, int], str]:
    """State dims that are an adapter's rank, and why they stay."""
    found: dict[tuple[str, int], str] = {}
    for path, layer in adapters(model):
        dot = f"{path}." if path else ""
        for name in getattr(layer, "lora_A", ()):
            found[f"{dot}lora_A.{name}.weight", 0] = _WHY.format(name)
        for name in getattr(layer, "lora_embedding_A", ()):
            found[f"{dot}lora_embedding_A.{name}", 0] = _WHY.format(name)
    return found


_WHY = "the rank of adapter {}, which its adapter_config names"


def is_merged(module: nn.Module) -> bool:
    """Whether the base weight holds the adapter's product, so that its parts are not run."""
    peft = sys.modules.get(_KIND)
    return peft is not None and isinstance(module, peft.BaseTunerLayer) and bool(module.merged)


def say_widths(model: nn.Module) -> None:
    """Make the layers around cut ones say how wide these are."""
    for _, layer in adapters(model):
        widths = getattr(layer, "_get_in_out_features", None)
        if widths is not None and hasattr(layer, "in_features"):
            layer.in_features, layer.out_features = widths(layer.get_base_layer())
