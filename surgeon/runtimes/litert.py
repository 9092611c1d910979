"""LiteRT: a .tflite, made by litert-torch, which has versions of torch of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from surgeon.measure.runtime import evaluating
from surgeon.quiet import mute
from surgeon.runtimes.flat import Flat
from surgeon.runtimes.runtime import Runtime, not_made

_TITLE = "LiteRT"
_ADVICE = (
    "pip install litert-torch in an environment of its own, as it brings the torch that it needs, and make the "
    ".tflite there; surgeon bench times such a file"
)


def _make(model: nn.Module, inputs: Any, path: Path) -> tuple[str, ...]:
    flat = Flat(model, inputs)
    try:
        with mute(), evaluating(model):
            import litert_torch  # type: ignore[import-not-found]

            litert_torch.convert(flat, flat.tensors).export(str(path))
    except Exception as error:
        raise not_made(_TITLE, error) from error
    return ()


LITERT = Runtime(
    "litert",
    "litert_torch",
    "model-surgeon[litert]",
    _make,
    title=_TITLE,
    advice=_ADVICE,
)
