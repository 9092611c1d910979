"""Networks that keep what they computed for the next call: their own switch for that, off for a while.

A language model gives its keys and values back beside its logits, to be passed in again. They are no
result: as an output they would hold every head, and a cut of them could not be seen in the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgeon.trace.modules import modules_of

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def caches_off(model: nn.Module) -> Iterator[None]:
    """`use_cache` off in the configs that modules of `model` hold, and in configs within these."""
    switched = [config for config in _configs(model) if config.use_cache is True]
    for config in switched:
        config.use_cache = False
    try:
        yield
    finally:
        for config in switched:
            config.use_cache = True


def has_caches(model: nn.Module) -> bool:
    """Whether some config of it has `use_cache` on."""
    return any(config.use_cache is True for config in _configs(model))


def _configs(model: nn.Module) -> list[Any]:
    """Every object with a `use_cache` that is some module's `config`, or an attribute of one."""
    found: dict[int, Any] = {}
    stack = [module.__dict__.get("config") for module in modules_of(model)]
    while stack:
        config = stack.pop()
        if id(config) not in found and hasattr(config, "use_cache"):
            found[id(config)] = config
            stack += getattr(config, "__dict__", {}).values()
    return list(found.values())
