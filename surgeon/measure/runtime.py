"""A runner is a network loaded once that runs once per call, whichever runtime executes it.

Importing this file loads neither torch nor onnxruntime; making a runner loads the one that it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgeon.errors import BadInput
from surgeon.runner.refusal import Refusal

if TYPE_CHECKING:
    import numpy as np
    import torch


class Runner(Protocol):
    """What a runtime must offer to be timed and compared.

    `precision` is the type of the numbers inside ("float32"); `load_s` the seconds from file or
    module to readiness; `file_bytes` None where there is no file.
    """

    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def load_s(self) -> float: ...
    @property
    def file_bytes(self) -> int | None: ...

    def __call__(self) -> None:
        """Run once, and return when the outputs are there."""
        ...

    def outputs(self) -> tuple[np.ndarray, ...]:
        """Run once and give all outputs, flat, in the network's order."""
        ...


class OrtRunner:
    """An ONNX file in ONNX Runtime on the CPU, all graph optimisations on.

    `inputs` are tensors or arrays: one, a sequence in the file's order, or a mapping by input name.
    A file that cannot be loaded, or inputs that it does not take, raise BadInput.
    """

    runtime = "onnxruntime"

    def __init__(self, path: str | Path, inputs: Any, threads: int = 1) -> None:
        from surgeon.runner.engines.ort import Engine

        self.name = Path(path).stem
        self.threads = threads
        self.file_bytes = onnx_bytes(path)
        with _refused():
            self._engine = Engine(Path(path), arrays(inputs), threads)
        self.version: str = self._engine.version
        self.load_s: float = self._engine.load_s
        self.precision: str = self._engine.precision

    def __call__(self) -> None:
        self._engine()

    def outputs(self) -> tuple[np.ndarray, ...]:
        with _refused():
            return tuple(self._engine.outputs())


class TorchRunner:
    """A module in eager PyTorch, in eval mode and inference mode while it runs.

    The module's own training flags and torch's thread count are restored after every call.
    """

    runtime = "torch"

    def __init__(
        self, model: torch.nn.Module, inputs: Any, threads: int = 1, name: str | None = None
    ) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._args, self._kwargs = arguments(inputs)
        self.name = name or type(model).__name__
        self.version: str = torch.__version__
        self.threads = threads
        self.load_s = 0.0
        self.file_bytes = None
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        self.precision = str(next(floats, torch.float32)).removeprefix("torch.")

    def __call__(self) -> None:
        self._run()

    def outputs(self) -> tuple[np.ndarray, ...]:
        return tuple(as_array(tensor) for _, tensor in named_tensors(self._run()))

    def _run(self) -> Any:
        torch = self._torch
        before = torch.get_num_threads()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        try:
            with evaluating(self._model), torch.inference_mode():
                return self._model(*self._args, **self._kwargs)
        finally:
            if before != self.threads:
                torch.set_num_threads(before)


def onnx_bytes(path: str | Path) -> int:
    """Bytes of an ONNX file and of the external data that surgeon stores beside it as NAME.data."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a forward call: a mapping is keywords, a sequence is positions."""
    from surgeon.trace.inputs import Inputs

    call = Inputs.of(inputs)
    return call.args, dict(call.kwargs)


def arrays(inputs: Any) -> dict[str, np.ndarray]:
    """The arrays of a call as a runner takes them: numbered in order, with the name of a keyword behind."""
    args, kwargs = arguments(inputs)
    named = [("", value) for value in args] + list(kwargs.items())
    found: dict[str, np.ndarray] = {}
    for name, value in named:
        parts = flat_inputs(value)
        behind = f".{name}" if name and hasattr(value, "shape") else ""
        found |= {f"{len(found) + at}{behind}": as_array(part) for at, part in enumerate(parts)}
    return found


def flat_inputs(inputs: Any) -> list[Any]:
    """The tensors and arrays inside tuples, lists and mappings, in order.

    Plain numbers and None are no inputs of an exported file: they are part of its graph.
    """
    if hasattr(inputs, "kwargs"):  # Inputs
        inputs = (inputs.args, inputs.kwargs)
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    if isinstance(inputs, tuple | list):
        return [leaf for part in inputs for leaf in flat_inputs(part)]
    return [inputs] if hasattr(inputs, "shape") else []


def named_tensors(value: Any, name: str = "output") -> list[tuple[str, torch.Tensor]]:
    """Every tensor inside `value` with the path to it: `output['boxes'][0]`, in pytree order.

    Goes into tuples, lists, dicts, registered pytrees and any dataclass; leaves out the rest.
    """
    import torch
    from torch.utils import _pytree as pytree

    found: list[tuple[str, torch.Tensor]] = []
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        label = name + pytree.keystr(path)
        if isinstance(leaf, torch.Tensor):
            found.append((label, leaf))
        elif is_open_dataclass(leaf):
            for part in dataclasses.fields(leaf):
                found += named_tensors(getattr(leaf, part.name), f"{label}.{part.name}")
    return found


def is_open_dataclass(leaf: object) -> bool:
    """A dataclass instance, which pytree takes for a leaf unless its class was registered."""
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)


def as_array(value: Any) -> np.ndarray:
    """A numpy array of a tensor, on any device, or of anything numpy takes; bfloat16 as float32."""
    import numpy as np

    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode and no caches inside, every module's own mode back afterwards."""
    from surgeon.trace.caches import caches_off

    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False  # not eval(): a class may refuse it, or do more than set the flag
    try:
        with caches_off(model):
            yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """What the runner refuses is bad input here."""
    try:
        yield
    except Refusal as refusal:
        raise BadInput(refusal.message, refusal.hint or None) from refusal
