"""A run's state after an epoch, in one file that is whole or not there; a killed run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.atomic import write_bytes
from surgeon.files.digest import of_models

FORMAT = "surgeon-tune-1"


def key_of(facts: Mapping[str, Any], *models: nn.Module | Mapping[str, Any] | None) -> str:
    """Of everything that decides a run's result: its options, its data, and the weights that it starts from."""
    return of_models(*models, also=json.dumps(facts, sort_keys=True, default=str).encode())


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file."""
    packed = BytesIO()
    torch.save({"format": FORMAT, **state}, packed)
    write_bytes(path, packed.getbuffer())


def read(path: Path, key: str) -> dict[str, Any] | None:
    """The state in the file, None where there is no file. BadInput for a damaged one, or another run's."""
    if not path.exists():
        return None
    again = f"remove {path} to begin again"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}".splitlines()[0], again) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BadInput(f"{path} is not the state of a tuning run", again)
    if state.get("key") != key:
        raise BadInput(
            f"{path} is of a run with other options, data or weights",
            f"give the same ones to go on, or {again}",
        )
    return state
