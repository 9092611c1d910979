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


def paths_of(model: nn.Module) -> dict[str, nn.Module]:
    """`dict(model.named_modules(remove_duplicate=False))`: each under every path that it has. As in torch, one that holds itself
    is a RecursionError."""
    found: dict[str, nn.Module] = {}

    def add(path: str, module: nn.Module) -> None:
        found[path] = module
        dot = f"{path}." if path else ""
        for name, part in module._modules.items():
            if part is not None:
                add(dot + name, part)

    add("", model)
    return found


def first_paths(model: nn.Module) -> dict[nn.Module, str]:
    """Each module with its first path, as `model.named_modules()` has them."""
    found: dict[nn.Module, str] = {}
    for path, module in paths_of(model).items():
        found.setdefault(module, path)
    return found
