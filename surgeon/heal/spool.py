"""Tensors put aside: in memory as long as they are few, else in one nameless file that no kill leaves behind."""

from __future__ import annotations

import tempfile
from types import TracebackType

import torch
from torch import Tensor

HELD = 256 * 2**20  # bytes that stay in memory


class Stored:
    """One tensor that was put aside. Where it stayed in memory, `get` gives the very same."""

    def __init__(self, spool: Spool, tensor: Tensor) -> None:
        self._spool, self._size = spool, tensor.numel() * tensor.element_size()
        self._like = (tensor.shape, tensor.dtype, tensor.device)
        self._tensor = tensor if spool.hold(self._size) else None
        self._at = -1 if self._tensor is not None else spool.write(tensor)

    def get(self) -> Tensor:
        """The tensor."""
        if self._tensor is not None:
            return self._tensor
        shape, dtype, device = self._like
        read = self._spool.read(self._at, self._size)
        return read.view(dtype).view(shape).to(device)

    def drop(self) -> None:
        """It is not asked for again."""
        self._spool.free(self._at, self._size)
        self._tensor = None


class Spool:
    """A context: what is put aside goes with it. At most `held` bytes (HELD) stay in memory.

    The file lies where `tempfile` puts files (TMPDIR), without a name where the system knows such.
    """

    def __init__(self, held: int | None = None) -> None:
        self._left = HELD if held is None else held
        self._free: dict[int, list[int]] = {}  # size -> places in the file
        self._end = 0

    def __enter__(self) -> Spool:
        self._file = tempfile.TemporaryFile(prefix="surgeon-", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, tensor: Tensor) -> Stored:
        """Put a tensor aside; whoever puts it does not write to it."""
        return Stored(self, tensor)

    def hold(self, size: int) -> bool:
        """Whether so many bytes more stay in memory."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def write(self, tensor: Tensor) -> int:
        """The place in the file that now has the tensor's numbers."""
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        places = self._free.get(len(data))
        at = places.pop() if places else self._end
        self._end = max(self._end, at + len(data))
        self._file.seek(at)
        view = data.numpy().data
        while len(view):
            view = view[self._file.write(view) :]
        return at

    def read(self, at: int, size: int) -> Tensor:
        """Bytes from a place in the file."""
        data = torch.empty(size, dtype=torch.uint8)
        self._file.seek(at)
        view = data.numpy().data
        while len(view):
            got = self._file.readinto(view)
            if not got:
                raise OSError("a temporary file is shorter than what was written to it")
            view = view[got:]
        return data

    def free(self, at: int, size: int) -> None:
        """A place in the file, or in memory where `at` is -1, may be used again."""
        if at < 0:
            self._left += size
        else:
            self._free.setdefault(size, []).append(at)
