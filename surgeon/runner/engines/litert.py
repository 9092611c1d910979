"""LiteRT (TensorFlow Lite) with XNNPACK: a .tflite file, float32 as it was converted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Mapping

from surgeon.runner.refusal import Refusal, first_line


def library() -> Any:
    """The interpreter of ai_edge_litert, or of the tflite_runtime that came before it."""
    try:
        from ai_edge_litert import interpreter  # type: ignore[import-not-found]
    except ImportError:
        from tflite_runtime import interpreter  # type: ignore[no-redef]

    return interpreter


class Engine:
    """An interpreter with its inputs set."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        from surgeon.runner.engines import PACKAGES, version

        self.version: str = version(*PACKAGES["litert"][1]) or "unknown"
        self.threads = threads
        self._name = path.name
        start = time.perf_counter()
        try:
            self._interpreter = library().Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except Exception as error:
            said = "LiteRT cannot load " + path.name + ": " + first_line(error)
            raise Refusal("cannot load", said) from error
        self.load_s = time.perf_counter() - start
        expected = self._interpreter.get_input_details()
        self.precision = _precision(expected)
        if len(expected) != len(arrays):
            said = f"the file takes {len(expected)} inputs, {len(arrays)} were given"
            raise Refusal("cannot run", said)
        try:
            for about, array in zip(expected, arrays.values()):
                self._interpreter.set_tensor(about["index"], array.astype(about["dtype"]))
        except ValueError as error:
            said = "LiteRT cannot run " + path.name + ": " + first_line(error)
            raise Refusal("cannot run", said) from error

    def __call__(self) -> None:
        self._interpreter.invoke()

    def outputs(self) -> list[Any]:
        try:
            self._interpreter.invoke()
        except Exception as error:
            said = "LiteRT cannot run " + self._name + ": " + first_line(error)
            raise Refusal("cannot run", said) from error
        found = self._interpreter.get_output_details()
        return [self._interpreter.get_tensor(about["index"]) for about in found]

    def profile(self, runs: int) -> None:
        """Its Python package tells none."""
        return


def _precision(expected: Any) -> str:
    kinds = [about["dtype"].__name__ for about in expected]
    return next((kind for kind in kinds if kind.startswith("float")), "float32")
