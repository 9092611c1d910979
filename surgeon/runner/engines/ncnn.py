"""ncnn on the CPU: float32 throughout (half precision is its default), a zip of what pnnx wrote.

In the zip: `param` (the layers), `bin` (the weights), `call.json` (inputs and outputs by name, and which of
their dimensions is the batch, null for none).
"""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any, Mapping

from surgeon.runner.refusal import Refusal, first_line

_HALF = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")


def library() -> Any:
    """ncnn."""
    import ncnn  # type: ignore[import-not-found]

    return ncnn


class Engine:
    """A net, and the mats that it is run on."""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        ncnn = library()
        from surgeon.runner.engines import version

        self.version: str = version("ncnn") or "unknown"
        self.threads = threads
        self.precision = "float32"
        self._name = path.name
        start = time.perf_counter()
        try:
            with zipfile.ZipFile(path) as whole:
                self._call = json.loads(whole.read("call.json").decode("utf-8"))
                self._weights = whole.read("bin")  # the net reads them where they are
                layers = whole.read("param").decode("utf-8")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            said = "ncnn cannot load " + path.name + ": " + first_line(error)
            raise Refusal("cannot load", said) from error
        self._net = _net(ncnn, threads)
        # 0 and nothing are success, as the version has it
        if self._net.load_param_mem(layers) or self._net.load_model_mem(self._weights):
            said = "ncnn cannot load " + path.name + ": a layer is unknown to this version of it"
            raise Refusal("cannot load", said, "pip install -U ncnn")
        self.load_s = time.perf_counter() - start
        expected = self._call["inputs"]
        if len(expected) != len(arrays):
            said = f"the file takes {len(expected)} inputs, {len(arrays)} were given"
            raise Refusal("cannot run", said)
        self._inputs = [
            (name, _mat(ncnn, array, batch))
            for (name, batch), array in zip(expected, arrays.values())
        ]

    def __call__(self) -> None:
        self._run()

    def outputs(self) -> list[Any]:
        mats = self._run()
        batches = [batch for _, batch in self._call["outputs"]]
        return [_array(mat, batch).copy() for mat, batch in zip(mats, batches)]

    def profile(self, runs: int) -> None:
        """Its Python package tells none."""
        return

    def _run(self) -> list[Any]:
        mats = []
        with self._net.create_extractor() as extractor:
            for name, mat in self._inputs:
                extractor.input(name, mat)
            for name, _ in self._call["outputs"]:
                code, mat = extractor.extract(name)
                if code:
                    said = f"ncnn cannot run {self._name}: code {code} at {name}"
                    raise Refusal("cannot run", said)
                mats.append(mat)
        return mats


def _net(ncnn: Any, threads: int) -> Any:
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in _HALF:
        if hasattr(net.opt, "use_" + option):  # newer and older ones differ in which they have
            setattr(net.opt, "use_" + option, False)
    return net


def _mat(ncnn: Any, array: Any, batch: int | None) -> Any:
    import numpy as np

    kind = np.int32 if array.dtype.kind in "iub" else np.float32
    array = np.ascontiguousarray(array.astype(kind))
    return (ncnn.Mat(array) if batch is None else ncnn.Mat(array, batch_index=batch)).clone()


def _array(mat: Any, batch: int | None) -> Any:
    return mat.numpy() if batch is None else mat.numpy(batch_index=batch)
