"""Which cut tensors the runs of a comparison reached: a head that saw no box proves nothing of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

from surgeon.plan import Keep
from surgeon.trace.tensors import named_tensors


class Reached:
    """Watches one run of a model. A cut tensor is reached where its module gave something, or an op took
    it and its module did not give empty tensors only."""

    def __init__(self, model: nn.Module, keep: Keep) -> None:
        self._names = {id(t): name for name, t in named_tensors(model).items() if name in keep}
        self._taken: set[str] = set()
        self._fed: set[str] = set()
        self._starved: set[str] = set()

    def op(self, given: Iterable[Any]) -> None:
        """Note the arguments of an op."""
        self._taken.update(self._names[id(x)] for x in given if id(x) in self._names)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what modules give, inside."""
        hook = register_module_forward_hook(self._gave)
        try:
            yield
        finally:
            hook.remove()

    def _gave(self, module: nn.Module, _args: Any, out: Any) -> None:
        own = [*module._parameters.values(), *module._buffers.values()]
        names = [self._names[id(t)] for t in own if id(t) in self._names]
        if names:
            given = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            full = any(t.numel() for t in given) or not given
            (self._fed if full else self._starved).update(names)

    @property
    def starved(self) -> bool:
        """Whether a module that holds cut tensors gave empty ones only."""
        return bool(self._starved - self._fed)

    @property
    def missing(self) -> set[str]:
        """Cut tensors that the run did not reach."""
        reached = self._fed | (self._taken - self._starved)
        return set(self._names.values()) - reached
