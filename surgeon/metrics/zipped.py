"""Zipped size: what a network's weights take once they are compressed, in bytes."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

_STEP = 2**24  # bytes at once


def zipped_bytes(model: nn.Module) -> int:
    """Bytes of the tensors of `state_dict()` after DEFLATE at level 6, as in a .zip, without headers.

    Zeros and equal numbers compress, other weights hardly do. A tensor under two names counts once.
    """
    packer, size = zlib.compressobj(6), 0
    seen: set[int] = set()
    for tensor in model.state_dict().values():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.data_ptr() in seen:
            continue
        if tensor.numel():
            seen.add(tensor.data_ptr())
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        for part in flat.split(_STEP):
            size += len(packer.compress(part.numpy().tobytes()))
    return size + len(packer.flush())
