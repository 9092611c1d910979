"""Arrays of one call, in the order of the forward; those that were given by keyword carry its name behind their number."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Mapping, Sequence

from surgeon.runner.refusal import Refusal


def read(path: Path) -> dict[str, Any]:
    """The arrays of an .npz, in order."""
    import numpy as np

    with np.load(path, allow_pickle=False) as packed:
        return {name: packed[name] for name in packed.files}


def feed(expected: Sequence[str], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays for a file's inputs: by name where all are named so, by position else."""
    by_name = {name.partition(".")[2]: array for name, array in arrays.items()}
    if set(by_name) == set(expected):
        return {name: by_name[name] for name in expected}
    if len(arrays) != len(expected):
        names = ", ".join(expected)
        raise Refusal(
            "cannot run",
            f"the file takes {len(expected)} inputs ({names}), {len(arrays)} were given",
        )
    return dict(zip(expected, arrays.values()))


def packed(arrays: Sequence[Any]) -> str:
    """Arrays as base64 of an .npz, for the answer."""
    import numpy as np

    whole = io.BytesIO()
    np.savez(whole, **{str(at): array for at, array in enumerate(arrays)})
    return base64.b64encode(whole.getvalue()).decode("ascii")


def unpacked(text: str) -> list[Any]:
    """The arrays that `packed` made text of."""
    import numpy as np

    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as whole:
        return [whole[name] for name in whole.files]
