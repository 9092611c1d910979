"""Where and by what a network is run: what a latency is a latency of."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from surgeon.devices.address import address
from surgeon.errors import BadInput
from surgeon.runner.engines import PACKAGES


@dataclass(frozen=True)
class Target:
    """A device, a runtime there, and its number of threads."""

    device: str = "local"
    runtime: str = "ort"
    threads: int = 1

    def __post_init__(self) -> None:
        checked_runtime(self.runtime)
        address(self.device)  # a slip of the finger is told before anything is made for it
        if self.threads < 1:
            raise BadInput(f"threads: at least 1, not {self.threads}")

    def __str__(self) -> str:
        """'ort, 1 thread', and the device where it is not this one."""
        where = "" if self.device == "local" else f" on {self.device}"
        return f"{self.runtime}{where}, {self.threads} thread" + "s" * (self.threads > 1)


def checked_runtime(name: str) -> str:
    """The name of a runtime; BadInput with the closest one where there is none of it."""
    if name in PACKAGES:
        return name
    close = difflib.get_close_matches(name, PACKAGES, 1)
    hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(PACKAGES)}"
    raise BadInput(f"there is no runtime {name!r}", hint)
