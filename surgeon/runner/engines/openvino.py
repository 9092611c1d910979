"""OpenVINO on the CPU, reading an ONNX file: float32 pinned (bfloat16 is its default where the CPU has it), telemetry off."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Mapping

from surgeon.runner.arrays import feed
from surgeon.runner.quantised import quantised
from surgeon.runner.refusal import Refusal, first_line

_COUNTING = 5
_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}


def library() -> Any:
    """openvino, without the package that tells Intel of every import; it goes on without."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # type: ignore[import-not-found]

    return openvino


class Engine:
    """A compiled network with one request, and the arrays that it is run on."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        ov = library()
        self.version: str = ov.__version__.partition("-")[0]
        self.threads = threads
        self._path = path
        start = time.perf_counter()
        try:
            self._compiled = _compiled(path, threads)
        except Exception as error:  # openvino's errors share no base
            said = "OpenVINO cannot load " + path.name + ": " + _reason(error)
            raise Refusal("cannot load", said) from error
        self._request = self._compiled.create_infer_request()
        self.load_s = time.perf_counter() - start
        kind = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = "int8" if quantised(path) else _NAMES.get(kind, kind)
        self._feed = feed([value.get_any_name() for value in self._compiled.inputs], arrays)

    def __call__(self) -> None:
        self._request.infer(self._feed)

    def outputs(self) -> list[Any]:
        try:
            self._request.infer(self._feed)
        except Exception as error:  # as above
            said = "OpenVINO cannot run " + self._path.name + ": " + _reason(error)
            raise Refusal("cannot run", said) from error
        return [self._request.get_tensor(port).data.copy() for port in self._compiled.outputs]

    def profile(self, runs: int) -> list[dict[str, Any]]:
        """By node of the compiled graph: the median of several networks that count, each of which tells a mean."""
        times: dict[str, list[float]] = {}
        ops: dict[str, str] = {}
        executed = library().ProfilingInfo.Status.EXECUTED
        for _ in range(_COUNTING):
            request = _compiled(self._path, self.threads, PERF_COUNT=True).create_infer_request()
            for _ in range(max(runs // _COUNTING, 1)):
                request.infer(self._feed)
            for node in request.profiling_info:
                if node.status == executed:
                    times.setdefault(node.node_name, []).append(node.real_time.total_seconds())
                    ops[node.node_name] = node.node_type
        return [{"layer": name, "op": ops[name], "s": median(s)} for name, s in times.items()]


def _compiled(path: Path, threads: int, **more: Any) -> Any:
    ov = library()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # a thread that may not leave a busy core says more of the neighbour than of the network
        "ENABLE_CPU_PINNING": False,
    }
    options.update(more)
    core = ov.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", options)


def _reason(error: BaseException) -> str:
    """The last line of what OpenVINO says: those before name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)
