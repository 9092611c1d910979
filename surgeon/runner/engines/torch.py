"""PyTorch on the CPU: a .pt2 written by torch.export, run op by op as eager PyTorch does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Mapping

from surgeon.runner.refusal import Refusal, first_line


def library() -> Any:
    """torch."""
    import torch

    return torch


class Engine:
    """The module of an exported program, and the tensors that it is run on."""

    advice = ""

    def __init__(self, path: Path, arrays: Mapping[str, Any], threads: int) -> None:
        torch = library()
        torch.set_num_threads(threads)
        self._torch = torch
        self.version: str = torch.__version__
        self.threads = threads
        self._name = path.name
        start = time.perf_counter()
        try:
            program = torch.export.load(str(path))
            self._module = self.prepared(program.module())
        except Exception as error:
            said = "PyTorch cannot load " + path.name + ": " + first_line(error)
            raise Refusal("cannot load", said) from error
        self.load_s = time.perf_counter() - start
        floats = [p.dtype for p in self._module.parameters() if p.is_floating_point()]
        self.precision = str(floats[0] if floats else torch.float32).replace("torch.", "")
        self._args, self._kwargs = _call(torch, program.example_inputs, arrays)

    def prepared(self, module: Any) -> Any:
        """What is run: the module itself."""
        return module

    def __call__(self) -> None:
        self._run()

    def outputs(self) -> list[Any]:
        try:
            found = self._run()
        except Exception as error:
            said = "PyTorch cannot run " + self._name + ": " + first_line(error)
            raise Refusal("cannot run", said, self.advice) from error
        leaves = self._torch.utils._pytree.tree_leaves(found)
        return [_array(leaf) for leaf in leaves if isinstance(leaf, self._torch.Tensor)]

    def profile(self, runs: int) -> None:
        """PyTorch's own knows ops, not layers."""
        return

    def _run(self) -> Any:
        with self._torch.inference_mode():
            return self._module(*self._args, **self._kwargs)


def _call(torch: Any, example: Any, arrays: Mapping[str, Any]) -> Any:
    """(args, kwargs) of the network's own structure; plain numbers in it are constants of the program."""
    leaves, spec = torch.utils._pytree.tree_flatten(example)
    given = iter(arrays.values())
    tensors = sum(isinstance(leaf, torch.Tensor) for leaf in leaves)
    if tensors != len(arrays):
        text = f"the file takes {tensors} inputs, {len(arrays)} were given"
        raise Refusal("cannot run", text)
    flat = [
        torch.from_numpy(next(given)).to(leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
        for leaf in leaves
    ]
    return torch.utils._pytree.tree_unflatten(flat, spec)


def _array(tensor: Any) -> Any:
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
