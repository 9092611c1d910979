"""Peak memory is measured in a process of its own, which holds one ONNX file and nothing else.

This file is also that process: it is run by its path and imports neither surgeon nor torch, so that
what it reports is what a deployment needs.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_S = 300
_NAMED = "in."  # marks an array that goes to the input of that name, not to that position


def peak_memory(path: str | Path, inputs: Any, threads: int = 1) -> int | None:
    """Bytes that loading an ONNX file and running it three times add to a bare ONNX Runtime process.

    The peak of resident memory after onnxruntime and the inputs are loaded, less what is resident
    then. None where the system does not tell (Windows) or the process fails or takes five minutes.
    """
    import numpy as np

    from surgeon.measure.runtime import as_array, flat_inputs

    packed = io.BytesIO()
    if isinstance(inputs, Mapping):
        arrays = {_NAMED + str(name): as_array(value) for name, value in inputs.items()}
    else:
        arrays = {str(at): as_array(value) for at, value in enumerate(flat_inputs(inputs))}
    np.savez(packed, allow_pickle=False, **arrays)
    command = [sys.executable, str(Path(__file__).resolve()), str(path), str(threads)]
    # PYTHONSAFEPATH: this folder's file names must not shadow modules in the child
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "ORT_DISABLE_TELEMETRY": "1"}
    try:
        child = subprocess.run(
            command,
            input=packed.getvalue(),
            capture_output=True,
            env=environment,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return int(child.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _child(path: str, threads: int) -> int:
    import numpy as np
    import onnxruntime as ort

    with np.load(io.BytesIO(sys.stdin.buffer.read())) as packed:
        arrays = {name: packed[name] for name in packed.files}
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    baseline = _start_of_peak()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    if not all(_NAMED + name in arrays for name in names):
        arrays = dict(zip((_NAMED + name for name in names), arrays.values(), strict=True))
    feed = {name: arrays[_NAMED + name] for name in names}
    for _ in range(3):  # the first run plans memory, the second reuses it
        session.run(None, feed)
    return max(_peak() - baseline, 0)


def _start_of_peak() -> int:
    """Bytes resident now, with the kernel's high-water mark set back to them where that is allowed.

    Where it is not, the mark so far: the result is then a lower bound for very small networks.
    """
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return _peak()
    return _status("VmRSS") or _peak()


def _peak() -> int:
    return _status("VmHWM") or _rusage_peak()


def _status(field: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines: Sequence[str] = file.readlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(found[0]) * 1024 if found else None


def _rusage_peak() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(_child(sys.argv[1], int(sys.argv[2])))
