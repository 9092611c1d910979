"""What a bench times: models of any form as files of the runtimes asked for, each on inputs of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.inputs import example, parse_inputs
from surgeon.files.source import open_model
from surgeon.measure.runtime import TorchRunner
from surgeon.runner.engines.ort import library
from surgeon.runtimes import RUNTIMES, make, require, runtime
from surgeon.trace.inputs import Inputs

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """How models are opened, what they are run on, where and by what.

    No `runtimes` are ONNX Runtime, and PyTorch for what cannot be exported. `shape` are the last sizes of every input;
    `batch` is that of inputs as given where it is None, and 1 where they are guessed.
    """

    arch: str | None = None
    input: str | None = None
    allow: tuple[str, ...] = ()
    unsafe_pickle: bool = False
    threads: int = 1
    batch: int | None = None
    shape: tuple[int, ...] = ()
    runtimes: tuple[str, ...] = ()
    device: str = "local"


@dataclass(frozen=True)
class Entrant:
    """A model in one runtime: its file, or where it has none the module itself. `outputs` are PyTorch's, None if there
    is no module to ask."""

    model: str
    runtime: str
    inputs: Inputs
    path: Path | None = None
    module: nn.Module | None = None
    outputs: tuple[Any, ...] | None = None


def entrants(
    refs: Sequence[str], terms: Terms, folder: Path, progress: Progress
) -> tuple[list[Entrant], list[str], list[str]]:
    """Everything that can be timed, by model and then by runtime, what is to be said of it, and what cannot be.

    BadInput for a model that cannot be opened, and for one that none of the runtimes takes.
    """
    for asked in map(runtime, terms.runtimes):
        if terms.device == "local":
            require(asked, running=True)
    found: list[Entrant] = []
    notes: list[str] = []
    left: list[str] = []
    for number, name in enumerate(labels(refs)):
        progress(f"make {name} ready")
        place = folder / str(number)
        place.mkdir()
        enter = _Entry(name, refs[number], terms, place)
        found += enter.entrants()
        notes += enter.notes
        left += enter.left
    return found, list(dict.fromkeys(notes)), left


def labels(refs: Sequence[str]) -> list[str]:
    """The references, numbered where one is given twice."""
    return [
        ref if ref not in refs[:at] else f"{ref} #{refs[: at + 1].count(ref)}"
        for at, ref in enumerate(refs)
    ]


class _Entry:
    """One model of the user's, entered once for each runtime."""

    def __init__(self, name: str, ref: str, terms: Terms, folder: Path) -> None:
        self.notes: list[str] = []
        self.left: list[str] = []  # why it is not timed in a runtime that was asked for
        self._name, self._ref, self._terms, self._folder = name, ref, terms, folder
        self._made: dict[Any, tuple[Path, tuple[str, ...]]] = {}

    def entrants(self) -> list[Entrant]:
        suffix = Path(self._ref).suffix
        takers = [r.name for r in RUNTIMES.values() if r.suffix == suffix]
        if takers and suffix != ".pt2":  # a .pt2 is a model like any other, whatever runs it
            return self._of_file(takers)
        terms = self._terms
        arch = terms.arch if Path(self._ref).exists() else None
        source = open_model(self._ref, arch, terms.input, terms.allow, terms.unsafe_pickle)
        # of the inputs the conditions speak, as they were run and not as they were guessed
        self.notes += [note for note in source.notes if not note.startswith("input ")]
        inputs = sized(source.inputs, terms, guessed=terms.input is None)
        whole = Entrant(self._name, "torch", inputs, module=source.model)
        if terms.runtimes:
            return self._asked(whole)
        return [self._usual(whole)]

    def _of_file(self, takers: list[str]) -> list[Entrant]:
        path, terms = Path(self._ref), self._terms
        if not path.is_file():
            raise BadInput(f"{path}: no such file", "check the path")
        asked = [name for name in terms.runtimes if name in takers]
        left = [RUNTIMES[name].title for name in terms.runtimes if name not in takers]
        if terms.runtimes and not asked:
            raise BadInput(
                f"{self._name} is no file for {' or '.join(left)}", "give the model itself"
            )
        self.left += [f"{self._name} is no file for {title}" for title in left]
        if terms.input:
            inputs = sized(parse_inputs(terms.input), terms, guessed=False)
        elif path.suffix == ".onnx":
            inputs = _declared(path, terms)
        else:
            raise BadInput(f"{path} does not say what it takes", "give --input")
        return [Entrant(self._name, name, inputs, path) for name in asked or takers[:1]]

    def _asked(self, whole: Entrant) -> list[Entrant]:
        """One for each runtime that was asked for and takes this network."""
        found, refused = [], []
        for name in self._terms.runtimes:
            try:
                found.append(self._file(whole, name))
            except BadInput as error:
                if name == "torch" and self._terms.device == "local":
                    self.notes.append(f"{self._name}: timed in surgeon's process: {error.message}")
                    found.append(whole)
                else:
                    refused.append(error)
        if not found:
            raise refused[0]
        self.left += [f"{self._name} is left out: {error.message}" for error in refused]
        return found

    def _usual(self, whole: Entrant) -> Entrant:
        """In ONNX Runtime; where there is no ONNX file in PyTorch, in a process of its own if that can be."""
        try:
            return self._file(whole, "ort")
        except BadInput as error:
            self.notes.append(
                f"{self._name}: timed in PyTorch, as there is no ONNX file: {error.message}"
            )
            try:
                return self._file(whole, "torch")
            except BadInput:
                if self._terms.device != "local":
                    raise error from None
                return whole

    def _file(self, whole: Entrant, name: str) -> Entrant:
        assert whole.module is not None
        kind = RUNTIMES[name].make  # two runtimes may read one file
        if kind not in self._made:
            self._made[kind] = make(whole.module, whole.inputs, name, self._folder / "net.any")
        path, notes = self._made[kind]
        self.notes += [f"{self._name}: {note}" for note in notes]
        outputs = whole.outputs or _outputs(whole, self._terms.threads)
        return replace(whole, runtime=name, path=path, module=None, outputs=outputs)


def _outputs(whole: Entrant, threads: int) -> tuple[Any, ...] | None:
    assert whole.module is not None
    return TorchRunner(whole.module, whole.inputs, threads).outputs()


def sized(inputs: Inputs, terms: Terms, *, guessed: bool) -> Inputs:
    """The inputs in the batch and of the sizes that were asked for."""
    if terms.batch is not None:
        inputs = inputs.first().times(terms.batch)
    elif guessed:
        inputs = inputs.first()
    if not terms.shape:
        return inputs
    if all(x.dim() < len(terms.shape) for x in inputs.tensors):
        raise BadInput(f"no input has {len(terms.shape)} dimensions, as --shape says", "see --help")
    seeds = iter(range(len(inputs.tensors)))

    def other(x: torch.Tensor) -> torch.Tensor:
        seed = next(seeds)
        if x.dim() < len(terms.shape):
            return x
        return example((*x.shape[: x.dim() - len(terms.shape)], *terms.shape), x.dtype, seed)

    return inputs.map(other)


_TYPES = {"float": torch.float32, "float16": torch.float16, "double": torch.float64,
          "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}  # fmt: skip


def _declared(path: Path, terms: Terms) -> Inputs:
    """Noise of the shapes that an ONNX file declares; its open first dimension is the batch."""
    ort = library()
    try:
        declared = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    except Exception as error:  # onnxruntime's errors share no base
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"ONNX Runtime cannot load {path}: {said}", "is it whole?") from error
    return Inputs(tuple(_noise(path, declared, terms)))


def _noise(path: Path, declared: Sequence[Any], terms: Terms) -> Iterator[torch.Tensor]:
    for seed, value in enumerate(declared):
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        if kind not in _TYPES:
            raise BadInput(f"{path}: input {value.name} is of type {value.type}", "give --input")
        shape = list(value.shape)
        if terms.shape and len(shape) >= len(terms.shape):
            shape[len(shape) - len(terms.shape) :] = terms.shape
        if shape and (terms.batch is not None or not isinstance(shape[0], int)):
            shape[0] = terms.batch or 1
        if not all(isinstance(size, int) for size in shape):
            hint = "give --shape or --input"
            raise BadInput(f"{path}: sizes of input {value.name} are open", hint)
        yield example(tuple(shape), _TYPES[kind], seed)
