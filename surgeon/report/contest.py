"""Models of any form, made ready and timed under the same conditions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.export import export_onnx
from surgeon.files.inputs import example, parse_inputs
from surgeon.files.source import open_model
from surgeon.measure.bench import Entry, race
from surgeon.measure.facts import told
from surgeon.measure.latency import Budget, Comparison, compare, time_one
from surgeon.measure.runtime import OrtRunner, Runner, TorchRunner
from surgeon.report.environment import processor
from surgeon.runner.engines.ort import library
from surgeon.trace.inputs import Inputs

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """How models are opened, and what they are run on."""

    arch: str | None = None
    input: str | None = None
    allow: tuple[str, ...] = ()
    unsafe_pickle: bool = False
    threads: int = 1
    batch: int = 1


@dataclass(frozen=True)
class _Contestant:
    name: str
    inputs: Inputs
    path: Path | None = None  # of its ONNX file
    model: nn.Module | None = None  # where there is none
    notes: tuple[str, ...] = ()


def contest(
    refs: Sequence[str], terms: Terms, max_s: float, progress: Progress = lambda _what: None
) -> dict[str, Any]:
    """Time every model; with two or more, interleaved and compared with the first.

    Plain data: one entry a model, notes, and the conditions as lines. Raises BadInput for what
    cannot be opened or run.
    """
    torch.set_num_threads(terms.threads)
    budget = Budget(min_s=min(2.0, max_s), max_s=max_s)
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        entered = []
        for number, name in enumerate(_labels(refs)):
            progress(f"make {name} ready")
            entered.append(_enter(refs[number], name, terms, Path(folder) / f"{number}.onnx"))
        progress("time" if len(entered) == 1 else "time, in random turns")
        found = _timed(entered, terms.threads, budget)
    ratios = found.as_dict()["ratios"]
    models = [
        {
            "name": c.name,
            "runtime": found.facts[c.name].title,
            "precision": found.facts[c.name].precision,
            "inputs": [list(x.shape) for x in c.inputs.tensors],
            "latency": found.timings[c.name].as_dict(),
            "noise": found.timings[c.name].noise,
            "ratio": ratios.get(c.name) if isinstance(ratios, dict) else None,
            "load_s": found.facts[c.name].load_s,
            "file_bytes": found.facts[c.name].file_bytes,
            "peak_memory": found.facts[c.name].peak_memory,
        }
        for c in entered
    ]
    # of the inputs the conditions speak, as they were run and not as they were guessed
    said = [note for c in entered for note in c.notes if not note.startswith("input ")]
    notes = list(dict.fromkeys(said))
    return {"models": models, "notes": notes, "conditions": list(_conditions(models, terms))}


def _labels(refs: Sequence[str]) -> list[str]:
    """The references, numbered where one is given twice."""
    return [
        ref if ref not in refs[:at] else f"{ref} #{refs[: at + 1].count(ref)}"
        for at, ref in enumerate(refs)
    ]


def _timed(entered: list[_Contestant], threads: int, budget: Budget) -> Comparison:
    entries = {c.name: Entry(c.path, c.inputs, "ort", threads) for c in entered if c.path}
    if len(entries) == len(entered):
        return race(entries, budget=budget, want=("memory",))
    runners = {c.name: _runner(c, threads) for c in entered}
    if len(runners) == 1:
        [(name, runner)] = runners.items()
        found = Comparison(name, {name: time_one(runner, budget)}, {})
    else:
        found = compare(runners, budget)
    return replace(found, facts={name: told(runner) for name, runner in runners.items()})


def _runner(c: _Contestant, threads: int) -> Runner:
    if c.path is not None:
        return OrtRunner(c.path, c.inputs, threads)
    assert c.model is not None
    return TorchRunner(c.model, c.inputs, threads, c.name)


def _conditions(models: list[dict[str, Any]], terms: Terms) -> Iterator[str]:
    runtimes = sorted({f"{m['runtime']} in {m['precision']}" for m in models})
    threads = f"{terms.threads} thread" + "s" * (terms.threads > 1)
    yield f"{', '.join(runtimes)}, {threads}, {processor()}"
    for shapes in sorted({str(m["inputs"]) for m in models}):
        yield f"inputs {shapes}; medians with 95 % intervals"
    pressure = max((m["latency"]["pressure"] or 0.0 for m in models), default=0.0)
    if pressure > 5:
        yield f"a busy machine: {pressure:.0f} % of the last ten seconds something waited for a CPU"


def _enter(ref: str, name: str, terms: Terms, draft: Path) -> _Contestant:
    if ref.endswith(".onnx"):
        path = Path(ref)
        inputs = parse_inputs(terms.input) if terms.input else _own_inputs(path, terms)
        return _Contestant(name, inputs, path)
    arch = terms.arch if Path(ref).exists() else None
    source = open_model(ref, arch, terms.input, terms.allow, terms.unsafe_pickle)
    inputs = source.inputs if terms.input else source.inputs.first().times(terms.batch)
    try:
        path = export_onnx(source.model, draft, inputs, dynamic_batch=False).path
    except BadInput as error:
        note = f"{name}: timed in PyTorch, as there is no ONNX file: {error.message}"
        return _Contestant(name, inputs, None, source.model, (*source.notes, note))
    return _Contestant(name, inputs, path, None, source.notes)


_TYPES = {"float": torch.float32, "float16": torch.float16, "double": torch.float64,
          "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}  # fmt: skip


def _own_inputs(path: Path, terms: Terms) -> Inputs:
    """Noise of the shapes that an ONNX file declares; open dimensions are the batch."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file", "check the path")
    ort = library()
    try:
        declared = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    except Exception as error:  # onnxruntime's errors share no base
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"ONNX Runtime cannot load {path}: {said}", "is it whole?") from error
    found = []
    for seed, value in enumerate(declared):
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        if kind not in _TYPES:
            raise BadInput(f"{path}: input {value.name} is of type {value.type}", "give --input")
        open_after_first = [d for d in value.shape[1:] if not isinstance(d, int)]
        if open_after_first:
            raise BadInput(f"{path}: sizes of input {value.name} are open", "give --input")
        shape = tuple(d if isinstance(d, int) else terms.batch for d in value.shape)
        found.append(example(shape, _TYPES[kind], seed))
    return Inputs(tuple(found))
