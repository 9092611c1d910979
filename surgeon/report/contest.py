"""Models of any form timed under the same conditions, and what the runs say, as plain data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from surgeon.errors import BadInput
from surgeon.export import relative_error
from surgeon.measure.bench import Entry, race
from surgeon.measure.facts import told
from surgeon.measure.latency import (
    Budget,
    Comparison,
    comparison,
    percentiles,
    runs_for,
)
from surgeon.measure.layers import placed
from surgeon.measure.readers import READERS
from surgeon.measure.runtime import OrtRunner, Runner, TorchRunner
from surgeon.report.entrants import Entrant, Progress, Terms, entrants
from surgeon.report.environment import processor
from surgeon.runner.noise import cpu_pressure
from surgeon.runner.sampling import sample

_BUSY = 5  # percent of the time in which something waited for a CPU


@dataclass(frozen=True)
class Looking:
    """How long to time, at most, and what beside the median is looked at; `percentiles` in percent."""

    max_s: float = 30.0
    percentiles: tuple[float, ...] = (90.0,)
    profile: bool = False

    @property
    def budget(self) -> Budget:
        """As many runs as the percentiles need, where they fit into the time."""
        runs = max([Budget().min_runs, *map(runs_for, self.percentiles)])
        return Budget(min_s=min(2.0, self.max_s), max_s=self.max_s, min_runs=runs)


def contest(
    refs: Sequence[str],
    terms: Terms,
    looking: Looking | None = None,
    progress: Progress = lambda _what: None,
) -> dict[str, Any]:
    """Time every model in every runtime asked for; two or more are interleaved and compared with the first.

    Plain data: one entry a model and runtime, notes, what was left out, the conditions as lines, the place. Raises SurgeonError for
    what cannot be opened, made, reached or run.
    """
    looking = looking or Looking()
    torch.set_num_threads(terms.threads)
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        entered, notes, left = entrants(refs, terms, Path(folder), progress)
        progress("time" if len(entered) == 1 else "time, in random turns")
        names = _names(entered)
        found = _timed(dict(zip(names, entered, strict=True)), terms, looking)
        models = [
            _entry(name, one, found, looking) for name, one in zip(names, entered, strict=True)
        ]
    notes += _too_few(models, looking)
    if looking.profile:
        mute = [m["name"] for m in models if m["profile"] is None]
        notes += [f"{name}: its runtime tells no times by layer" for name in mute]
    conditions = list(_conditions(models, terms, found.place))
    said = {"notes": notes, "left": left, "conditions": conditions}
    return {"models": models, **said, "place": dict(found.place)}


def _names(entered: Sequence[Entrant]) -> list[str]:
    """A name for each: the model's, with the runtime where there are several of them."""
    several = len({one.runtime for one in entered}) > 1
    return [f"{one.model} ({one.runtime})" if several else one.model for one in entered]


def _timed(entered: Mapping[str, Entrant], terms: Terms, looking: Looking) -> Comparison:
    entries = {
        name: Entry(one.path, one.inputs, one.runtime, terms.threads)
        for name, one in entered.items()
        if one.path is not None
    }
    want = ("memory", "first", "outputs", *(["profile"] if looking.profile else []))
    if len(entries) == len(entered):
        return race(entries, terms.device, looking.budget, want)
    runners = {name: _runner(name, one, terms.threads) for name, one in entered.items()}
    found = comparison(sample(runners, looking.budget), cpu_pressure())
    return replace(found, facts={name: told(runner) for name, runner in runners.items()})


def _runner(name: str, one: Entrant, threads: int) -> Runner:
    """For this process, where a network is in the race that no file can hold."""
    if one.module is not None:
        return TorchRunner(one.module, one.inputs, threads, name)
    if one.runtime != "ort" or one.path is None:
        raise BadInput(
            f"{name} cannot be timed beside a network that runs in surgeon's own process",
            "bench them one after the other, or with --runtime ort,torch",
        )
    return OrtRunner(one.path, one.inputs, threads)


def _entry(name: str, one: Entrant, found: Comparison, looking: Looking) -> dict[str, Any]:
    facts, timing = found.facts[name], found.timings[name]
    ratio = found.ratios.get(name)
    profile = facts.profile
    if profile is not None and one.path is not None and one.path.suffix == ".onnx":
        profile = placed(profile, one.path)
    return {
        "name": name,
        "model": one.model,
        "runtime": facts.title,
        "precision": facts.precision,
        "threads": facts.threads,
        "inputs": [list(x.shape) for x in one.inputs.tensors],
        "latency": timing.as_dict(),
        "percentiles": percentiles(found.laps.get(name, ()), looking.percentiles),
        "noise": timing.noise,
        "ratio": asdict(ratio) if ratio else None,
        "load_s": facts.load_s,
        "file_bytes": facts.file_bytes,
        "peak_memory": facts.peak_memory,
        "output_error": _error(one, facts.outputs),
        "profile": None if profile is None else [dict(layer) for layer in profile],
    }


def _error(one: Entrant, outputs: Sequence[Any] | None) -> float | None:
    """The largest difference from PyTorch on the same input, relative to the output's range."""
    if one.outputs is None or outputs is None:
        return None
    if len(outputs) != len(one.outputs):
        return float("inf")
    pairs = zip(outputs, one.outputs, strict=True)
    return max((relative_error(got, want) for got, want in pairs), default=0.0)


def _too_few(models: Sequence[Mapping[str, Any]], looking: Looking) -> list[str]:
    notes = []
    for name, share in ((f"p{share:g}", share) for share in looking.percentiles):
        lacking = [m["latency"]["runs"] for m in models if m["percentiles"].get(name) is None]
        if lacking:
            notes.append(
                f"{name} needs {runs_for(share)} runs, there were {min(lacking)}: give a longer --max-time"
            )
    return notes


def _conditions(
    models: Sequence[Mapping[str, Any]], terms: Terms, place: Mapping[str, Any]
) -> Iterator[str]:
    runtimes = sorted({f"{m['runtime']} in {m['precision']}" for m in models})
    threads = f"{terms.threads} thread" + "s" * (terms.threads > 1)
    where = "" if terms.device == "local" else f" ({terms.device})"
    yield f"{', '.join(runtimes)}, {threads}, {place.get('cpu') or processor()}{where}"
    for shapes in sorted({str(m["inputs"]) for m in models}):
        yield f"inputs {shapes}; medians with 95 % intervals"
    talking = [reader.own for reader in READERS.values() if reader.talks]
    talkers = [name for name in talking if any(name in m["runtime"] for m in models)]
    if talkers:
        yield f"telemetry of {' and '.join(talkers)} is switched off here, which it is not by default"
    yield from _signs(models, place)


def _signs(models: Sequence[Mapping[str, Any]], place: Mapping[str, Any]) -> Iterator[str]:
    """What the machine itself says against the timings."""
    pressure = max((m["latency"]["pressure"] or 0.0 for m in models), default=0.0)
    if pressure > _BUSY:
        yield f"a busy machine: {pressure:.0f} % of the last ten seconds something waited for a CPU"
    if place.get("throttled"):
        yield f"the machine was slowed down: {place['throttled']}"
    told = []
    if place.get("governor"):
        told.append(f"clock governor {place['governor']}")
    if place.get("temperature") is not None:
        told.append(f"{place['temperature']:.0f} C")
    if told:
        yield ", ".join(told)
