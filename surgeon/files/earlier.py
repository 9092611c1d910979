"""An earlier checkpoint of a network that is open already: its state, under the network's own names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from surgeon.errors import BadInput
from surgeon.files.checkpoint import read
from surgeon.files.fit import difference
from surgeon.files.source import renamed


def open_earlier(
    path: str | Path, model: nn.Module, allow: tuple[str, ...] = (), unsafe_pickle: bool = False
) -> dict[str, Tensor]:
    """The weights and buffers of a file, for `model`. BadInput where they are another network's."""
    found = read(path, allow, unsafe_pickle)
    state = found.state
    if found.module is not None:
        state = found.module.state_dict()
    elif found.program is not None:
        state = dict(found.program.state_dict)
    if state is None:
        raise BadInput(
            f"{path} is no checkpoint of the whole network", "give weights from before it was cut"
        )
    state, _ = renamed(state, model)
    differs = difference(state, model)
    if differs:
        raise BadInput(
            f"{path} is no earlier checkpoint of this network\n{differs}",
            "rewind to weights that this very network had",
        )
    return state
