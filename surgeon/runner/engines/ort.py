"""ONNX Runtime on the CPU: all graph optimisations on, the telemetry of its official builds off."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Mapping, Sequence

from surgeon.runner.arrays import feed
from surgeon.runner.quantised import quantised
from surgeon.runner.refusal import Refusal, first_line

_ERRORS_ONLY = 3
# an older ONNX Runtime's words for a file that was written for a newer one
_TOO_NEW = re.compile(r"unsupported model ir version|opset \d+ is under development", re.IGNORECASE)


def library() -> Any:
    """onnxruntime, imported with its telemetry off (on by default in official builds since 1.29)."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class Engine:
    """A session, and the arrays that it is run on."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        self.version: str = library().__version__
        self.threads = threads
        self._path = path
        start = time.perf_counter()
        self._session = _session(path, threads)
        self.load_s = time.perf_counter() - start
        expected = self._session.get_inputs()
        self.precision = "int8" if quantised(path) else _precision(expected)
        self._feed = feed([value.name for value in expected], arrays)

    def __call__(self) -> None:
        self._session.run(None, self._feed)

    def outputs(self) -> list[Any]:
        try:
            return list(self._session.run(None, self._feed))
        except Exception as error:  # as above
            wrong = self._other_sizes()
            if wrong:
                hint = "export it for these sizes: surgeon export MODEL --input ..."
                raise Refusal("cannot run", self._path.name + " takes " + wrong, hint) from error
            said = "ONNX Runtime cannot run " + self._path.name + ": " + first_line(error)
            raise Refusal("cannot run", said) from error

    def _other_sizes(self) -> str:
        """The first input whose fixed sizes are not those of the array that it is given; empty where all fit."""
        for value in self._session.get_inputs():
            wanted, given = list(value.shape), list(self._feed[value.name].shape)
            pairs = zip(wanted, given)
            if len(wanted) != len(given) or any(isinstance(n, int) and n != m for n, m in pairs):
                said = ",".join(str(n) if isinstance(n, int) else "*" for n in wanted)
                return f"{value.name} of {said}, and is given {','.join(map(str, given))}"
        return ""

    def profile(self, runs: int) -> list[dict[str, Any]]:
        """By node of the optimised graph: the median over runs, from a session of its own."""
        with tempfile.TemporaryDirectory() as folder:
            session = _session(self._path, self.threads, str(Path(folder) / "profile"))
            for _ in range(runs + 1):
                session.run(None, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _layers(events, runs + 1)


def _session(path: Path, threads: int, profile: str = "") -> Any:
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base
        raise _not_loaded(path.name, error, ort.__version__) from error


def _layers(events: Sequence[Mapping[str, Any]], runs: int) -> list[dict[str, Any]]:
    """A line a node, in order of the run; the first run is left out."""
    times: dict[str, list[float]] = {}
    ops: dict[str, str] = {}
    for event in events:
        name, _, what = event.get("name", "").rpartition("_kernel_")
        if event.get("cat") == "Node" and what == "time":
            times.setdefault(name, []).append(event["dur"] / 1e6)
            ops[name] = event["args"]["op_name"]
    found = []
    for name, every in times.items():
        once = max(len(every) // runs, 1)  # inside a loop a node runs several times in a run
        laps = [sum(every[at : at + once]) for at in range(once, len(every), once)]
        found.append({"layer": name, "op": ops[name], "s": median(laps or every)})
    return found


def _not_loaded(name: str, error: Exception, version: str) -> Refusal:
    said = "ONNX Runtime cannot load " + name + ": " + first_line(error)
    if _TOO_NEW.search(str(error)):
        hint = "onnxruntime " + version + " is older than the file: pip install -U onnxruntime"
        return Refusal("old runtime", said, hint, "ort")
    return Refusal("cannot load", said, "is it whole?")


def _precision(inputs: Sequence[Any]) -> str:
    """The type of the first real-valued input: weights follow it, as ONNX has no mixed operators."""
    real = {"float": "float32", "float16": "float16", "double": "float64", "bfloat16": "bfloat16"}
    kinds = [re.sub(r"^tensor\((.*)\)$", r"\1", value.type) for value in inputs]
    return next((real[kind] for kind in kinds if kind in real), "float32")
