"""A model with its example inputs: its calls, and other inputs to compare an exported file on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgeon.errors import BadInput, SurgeonError
from surgeon.measure.runtime import arguments, as_array, named_tensors
from surgeon.noise import indexed
from surgeon.trace.captured import ONE_EXAMPLE
from surgeon.trace.inputs import Inputs
from surgeon.trace.mode import exporting
from surgeon.witness import Witness
from surgeon.writable import writable

TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}  # of an output's range, by the weights' type
_TOLERANCE = 1e-4
_LONG = 200  # letters of a reason; torch lists the symbols of a whole network


class Case:
    """The model with its example inputs, and the same inputs at other batch sizes."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.model = model
        self.flat, self._spec = pytree.tree_flatten(arguments(inputs))
        extents = [x.shape[0] for x in self.flat if isinstance(x, Tensor) and x.ndim]
        self.batch = extents[0] if extents else 0
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        precision = str(next(floats, torch.float32)).removeprefix("torch.")
        self.tolerance = TOLERANCE.get(precision, _TOLERANCE)

    def call(self, flat: list[Any]) -> list[tuple[str, np.ndarray]]:
        """The outputs by name, as arrays."""
        return [(name, as_array(tensor)) for name, tensor in named_tensors(self.outputs(flat))]

    def outputs(self, flat: list[Any]) -> Any:
        """As the model gives them; its own error becomes BadInput, and what a program of ours refuses stays as it is said."""
        args, kwargs = pytree.tree_unflatten(flat, self._spec)
        try:
            return self.model(*args, **kwargs)
        except SurgeonError:
            raise
        except Exception as error:
            sizes = ", ".join(str(list(x.shape)) for x in flat if isinstance(x, Tensor))
            single = f"; {ONE_EXAMPLE}" if self.batch == 1 else ""
            raise BadInput(
                f"the model's forward fails: {first_line(error)}; with inputs {sizes}",
                f"check the input shapes{single}",
            ) from error

    @exporting()
    def program(self, dynamic: bool, witness: Witness | None) -> torch.export.ExportedProgram:
        """torch.export of the model, or of its witness; traced with at least two examples where the batch is open."""
        flat = self.at(max(self.batch, 2)) if dynamic else self.flat
        args, kwargs = pytree.tree_unflatten(flat, self._spec)
        shapes = torch.export.ShapesCollection()
        for tensor, example in zip(flat, self.flat, strict=True):
            if dynamic and self._batched(example):
                shapes[tensor] = {0: torch.export.Dim("batch")}
        model = self.model if witness is None else witness
        if not _gives_only_tensors(model(*args, **kwargs)):
            model = Witness(model)  # torch.export takes no dataclass among the outputs
        dims = shapes.dynamic_shapes(model, args, kwargs) if dynamic else None
        program = torch.export.export(model, args, kwargs, dynamic_shapes=dims, strict=False)
        # the guards check sizes, and torch writes them wrongly for a forward of **kwargs
        program._guards_code = []
        return writable(program)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positions and keywords of the forward, as given."""
        args, kwargs = pytree.tree_unflatten(self.flat, self._spec)
        return tuple(args), dict(kwargs)

    def at(self, batch: int) -> list[Any]:
        """The inputs repeated or cut to `batch` examples; each tensor is an object of its own."""
        return [
            x[torch.arange(batch, device=x.device) % self.batch] if self._batched(x) else x
            for x in self.flat
        ]

    def _batched(self, x: Any) -> bool:
        """Whether dim 0 of an input is the batch: it is as long as the first input's."""
        return isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == self.batch

    def trials(self, dynamic: bool) -> Iterator[list[Any]]:
        """Inputs to compare on: as given, and varied, at another batch where that is open.

        Varied as far as the model takes it: lengths may have to be sorted, the first number of a box is its picture.
        """
        yield self.flat
        generator, positions = torch.Generator().manual_seed(0), self._positions()
        for batch in (1, 3) if dynamic else (0,):
            flat = self.at(batch) if batch else self.flat
            varied = [
                _varied(x, generator) if isinstance(x, Tensor) and n not in positions else x
                for n, x in enumerate(flat)
            ]
            for some in (varied, _only_floats(varied, flat), _only_first(varied, flat)):
                if self._takes(some):
                    yield some
                    break
            else:
                yield varied  # its error is told

    def _positions(self) -> set[int]:
        """Which inputs are real numbers that say where to look: others may be nowhere."""
        tensors = [n for n, x in enumerate(self.flat) if isinstance(x, Tensor)]
        return {tensors[n] for n in indexed(self.model, Inputs(*self.arguments()))}

    def _takes(self, flat: list[Any]) -> bool:
        try:
            self.outputs(flat)
        except BadInput:
            return False
        return True


def _varied(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other numbers of the same kind: noise added to floats, integers turned round.

    Example inputs are often all zeros or ones, on which wrong networks agree.
    """
    if not tensor.is_floating_point():
        return tensor.flip(-1) if tensor.ndim else tensor
    spread = float(tensor.float().std(correction=0)) if tensor.numel() else 0.0
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor + noise * (spread or 1.0)


def _only_floats(varied: list[Any], flat: list[Any]) -> list[Any]:
    return [
        new if isinstance(new, Tensor) and new.is_floating_point() else old
        for new, old in zip(varied, flat, strict=True)
    ]


def _only_first(varied: list[Any], flat: list[Any]) -> list[Any]:
    """What else there is may be about the first: where in a picture to look."""
    return [*varied[:1], *flat[1:]]


def _gives_only_tensors(outputs: Any) -> bool:
    return all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(outputs))


def first_line(error: BaseException) -> str:
    """Without the colours of a terminal, and without the advice that torch goes on with; of a long one the beginning."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r"\x1b\[[0-9;]*m", "", line).partition(" This is step ")[0]
    return line if len(line) <= _LONG else line[:_LONG].rstrip() + " ..."
