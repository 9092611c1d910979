"""What a runtime tells about a network that it was timed with, beside the laps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon.measure.readers import own_name

if TYPE_CHECKING:
    import numpy as np

    from surgeon.measure.runtime import Runner


@dataclass(frozen=True)
class Facts:
    """`runtime` by surgeon's name; `precision` of the numbers inside ("float32"); `load_s` seconds from file to readiness.

    `peak_memory` is in bytes above the bare runtime; `profile` has the seconds of one run by layer, as {"layer", "op", "s"};
    `outputs` are all of them, flat. These three are None where they were not wanted, or the runtime does not tell.
    """

    runtime: str
    version: str
    precision: str
    threads: int
    load_s: float | None
    file_bytes: int | None
    peak_memory: int | None = None
    profile: tuple[Mapping[str, Any], ...] | None = None
    outputs: tuple[np.ndarray, ...] | None = None

    @property
    def title(self) -> str:
        """'onnxruntime 1.31.1'."""
        return f"{own_name(self.runtime)} {self.version.partition('+')[0]}"


def told(runner: Runner) -> Facts:
    """The facts of one that ran in this process."""
    return Facts(
        runner.runtime,
        runner.version,
        runner.precision,
        runner.threads,
        runner.load_s,
        runner.file_bytes,
    )
