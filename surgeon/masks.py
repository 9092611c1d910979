"""The masks of living tensors: as small as they are products, and one for a whole storage once a write asks for it.

A mask is a bool tensor of its tensor's shape, broadcast (stride 0) along every dimension that it does
not change along: that of a cut channel of f32[2,768,14,14] holds 768 bytes. Such a mask is a value and
is never written to. A write that changes what is removed must be seen by every view of the same
storage: the storage then gets a mask laid out as it is itself, and its tensors read their part of that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from surgeon.broadcast import narrow


@dataclass(frozen=True, eq=False)
class _Laid:
    """The mask of a storage: an element of `flat` an element of it."""

    storage: StorageWeakRef
    flat: Tensor
    itemsize: int


class Held:
    """Tensor -> mask, for as long as the tensor lives; None where nothing of it is removed."""

    def __init__(self) -> None:
        self._small: Any = WeakIdKeyDictionary()
        self._laid: dict[int, _Laid] = {}

    def meet(self, tensors: Iterable[Tensor]) -> None:
        """Note that these tensors are there, so that writes through their views reach them."""
        for tensor in tensors:
            if tensor not in self._small:
                self._small[tensor] = None

    def get(self, tensor: Tensor) -> Tensor | None:
        """The mask of a tensor, not to be written to; None where nothing is removed."""
        laid = self._of_storage(tensor)
        if laid is None:
            return self._small.get(tensor)
        mask = _part(laid.flat, tensor)
        return mask if bool(mask.any()) else None

    def set(self, tensor: Tensor, mask: Tensor) -> None:
        """The mask of what an op gave, broadcastable to it. A view of a laid out storage has it already."""
        if self._of_storage(tensor) is None:
            self._small[tensor] = _small(mask.expand(tensor.shape))

    def write(self, tensor: Tensor, mask: Tensor) -> None:
        """The mask of what was written to a tensor: from now on that of all that shares its storage."""
        self.meet((tensor,))
        new, old = _small(mask.expand(tensor.shape)), self.get(tensor)
        if _same(new, old):
            return
        if self._of_storage(tensor) is None and len(self._on_storage(tensor)) < 2:
            self._small[tensor] = new
            return
        _part(self.lay(tensor), tensor).copy_(mask.expand(tensor.shape))

    def lay(self, tensor: Tensor) -> Tensor:
        """The mask of the tensor's whole storage, laid out as it is: an element an element."""
        laid = self._of_storage(tensor)
        if laid is not None:
            return laid.flat
        storage, size = tensor.untyped_storage(), tensor.element_size()
        flat = torch.zeros(storage.nbytes() // size, dtype=torch.bool, device=tensor.device)
        for other, mask in self._on_storage(tensor):
            if mask is not None and other.element_size() == size:
                place = _part(torch.arange(len(flat), device=tensor.device), other)
                flat[place[mask]] = True
        self._laid = {k: x for k, x in self._laid.items() if not x.storage.expired()}
        self._laid[storage._cdata] = _Laid(StorageWeakRef(storage), flat, size)
        return flat

    def lay_where_masked(self, tensor: Tensor) -> None:
        """As `lay`, unless nothing that shares the storage is masked."""
        if any(mask is not None for _, mask in self._on_storage(tensor)):
            self.lay(tensor)

    def _on_storage(self, tensor: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        own = tensor.untyped_storage()._cdata
        living = list(self._small.items())
        return [(t, mask) for t, mask in living if t.untyped_storage()._cdata == own]

    def _of_storage(self, tensor: Tensor) -> _Laid | None:
        if not self._laid:
            return None
        laid = self._laid.get(tensor.untyped_storage()._cdata)
        if laid is None or laid.storage.expired() or laid.itemsize != tensor.element_size():
            return None
        return laid


def _small(mask: Tensor) -> Tensor | None:
    least = narrow(mask)
    return least.expand(mask.shape) if bool(least.any()) else None


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def _part(flat: Tensor, tensor: Tensor) -> Tensor:
    """The elements of a storage that a tensor shows."""
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
