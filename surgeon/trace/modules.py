"""All modules of a network, in torch's order: its own generators are nested as deep as the modules, and as slow."""

from __future__ import annotations

from torch import nn


def modules_of(model: nn.Module) -> list[nn.Module]:
    """`list(model.modules())`: each once, a module before its parts."""
    found: dict[nn.Module, None] = {}
    left = [model]
    while left:
        module = left.pop()
        if module not in found:
            found[module] = None
            left.extend(part for part in reversed(module._modules.values()) if part is not None)
    return list(found)
