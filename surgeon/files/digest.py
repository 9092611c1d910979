"""Digests: two networks, or two sets of tensors, are the same where these are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def of_tensors(tensors: Iterable[tuple[str, Tensor]], also: bytes = b"") -> str:
    """'sha256:...' of names, shapes, types and bytes, in the order given."""
    digest = hashlib.sha256(also)
    for name, tensor in tensors:
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return "sha256:" + digest.hexdigest()


def of_models(*models: nn.Module | Mapping[str, Any] | None, also: bytes = b"") -> str:
    """The same of networks, or of their state dicts, by name."""
    dicts = [m.state_dict() if isinstance(m, nn.Module) else m or {} for m in models]
    states = [sorted(d.items()) for d in dicts]
    return of_tensors(((n, t) for state in states for n, t in state if isinstance(t, Tensor)), also)


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
