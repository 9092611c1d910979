"""JSON that every reader takes: NaN and infinity, which JSON does not have, become null."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBERS = re.compile(r"\[\s+([-\d.eE+,\s]+?)\s+\]")  # no string: in one, JSON has no line break


def dumps(data: Any) -> str:
    """One document, ending in a newline; a list of numbers stands on one line."""
    text = json.dumps(_plain(data), indent=1, allow_nan=False, default=str)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _plain(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    return [_plain(x) for x in data] if isinstance(data, list | tuple) else data
