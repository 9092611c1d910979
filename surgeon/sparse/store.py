"""A masked network as a checkpoint that shrink, inspect and torch.load read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch
from torch import nn

from surgeon.files.atomic import write_bytes


def store(model: nn.Module, path: Path, arch: str | None) -> None:
    """Write the state dict and the reference that it belongs to, whole or not at all."""
    state = {n: t.detach().clone() for n, t in model.state_dict().items()}
    packed = BytesIO()
    torch.save({"state_dict": state, **({"arch": arch} if arch else {})}, packed)
    write_bytes(path, packed.getbuffer())
