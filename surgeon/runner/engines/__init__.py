"""Engines: one file a runtime, each with `library()` (import it) and `Engine(path, arrays, threads)`.

An engine is a network that is loaded. It has `version`, `precision` (of the numbers inside: "float32"), `threads`
and `load_s` (seconds from file to readiness); calling it runs once and returns when the outputs are there; `outputs()` gives
those, flat, in the network's order; `profile(runs)` gives [{"layer", "op", "s"}], seconds of one run, or None.
A file that cannot be loaded and inputs that it does not take are a Refusal.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

from surgeon.runner.refusal import Refusal, first_line

# runtime -> its module, and the distributions that bring it; what the first is called is what pip installs
PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ort": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")),
    "openvino": ("openvino", ("openvino",)),
    "torch": ("torch", ("torch",)),
    "torch-compile": ("torch", ("torch",)),
    "ncnn": ("ncnn", ("ncnn",)),
    "executorch": ("executorch", ("executorch",)),
    "litert": ("ai_edge_litert", ("ai-edge-litert", "tflite-runtime")),
}


def engine(runtime: str) -> ModuleType:
    """The module of this folder that runs files of `runtime`, with its library imported."""
    if runtime not in PACKAGES:
        known = ", ".join(PACKAGES)
        raise Refusal("bad job", "no such runtime: " + runtime, "one of " + known)
    found = importlib.import_module("surgeon.runner.engines." + runtime.replace("-", "_"))
    package = PACKAGES[runtime][1][0]
    try:
        found.library()
    except ImportError as error:
        hint = "pip install " + package
        if find_spec(PACKAGES[runtime][0]) is None:
            said = package + " is not installed there"
            raise Refusal("no runtime", said, hint, runtime) from error
        said = package + " cannot be imported there: " + first_line(error)
        raise Refusal("no runtime", said, hint, runtime) from error
    return found


def versions() -> dict[str, str | None]:
    """The version of every runtime, None where it is not installed."""
    return {name: version(*names) for name, (_, names) in PACKAGES.items()}


def version(*distributions: str) -> str | None:
    """The version of the first of these that is installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    for name in distributions:
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return None
