"""ExecuTorch with XNNPACK: a .pte, float32 as it was exported."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Mapping

from surgeon.runner.refusal import Refusal, first_line


def library() -> Any:
    """executorch.runtime; it brings torch."""
    import executorch.runtime  # type: ignore[import-not-found]

    return executorch.runtime


class Engine:
    """A loaded method, and the tensors that it is run on."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        runtime = library()
        import torch
        from executorch.extension.pybindings import portable_lib  # type: ignore[import-not-found]

        from surgeon.runner.engines import version

        self.version: str = version("executorch") or "unknown"
        self.threads = threads
        self.precision = "float32"
        self._name = path.name
        torch.set_num_threads(threads)
        portable_lib._unsafe_reset_threadpool(threads)
        start = time.perf_counter()
        try:
            self._method = runtime.Runtime.get().load_program(str(path)).load_method("forward")
        except Exception as error:
            said = "ExecuTorch cannot load " + path.name + ": " + first_line(error)
            raise Refusal("cannot load", said) from error
        self.load_s = time.perf_counter() - start
        expected = self._method.metadata.num_inputs()
        if expected != len(arrays):
            said = f"the file takes {expected} inputs, {len(arrays)} were given"
            raise Refusal("cannot run", said)
        self._inputs = [torch.from_numpy(array) for array in arrays.values()]

    def __call__(self) -> None:
        self._method.execute(self._inputs)

    def outputs(self) -> list[Any]:
        try:
            found = self._method.execute(self._inputs)
        except Exception as error:
            said = "ExecuTorch cannot run " + self._name + ": " + first_line(error)
            raise Refusal("cannot run", said) from error
        return [value.numpy().copy() for value in found if hasattr(value, "numpy")]

    def profile(self, runs: int) -> None:
        """Its Python package tells none."""
        return
