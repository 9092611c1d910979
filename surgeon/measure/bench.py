"""Files of networks timed by the runner: here or on a device, interleaved where there are several."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.devices import open_device
from surgeon.errors import BadInput
from surgeon.measure.facts import Facts
from surgeon.measure.latency import Budget, Comparison, comparison
from surgeon.measure.runtime import arrays
from surgeon.measure.target import Target
from surgeon.runner.arrays import unpacked
from surgeon.runner.sampling import Laps

if TYPE_CHECKING:
    from torch import nn

_PLAIN = re.compile(
    r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII
)  # a name for any file system and any shell
_TAKEN = ("job.json", "runner.pyz")


@dataclass(frozen=True)
class Entry:
    """A file to be timed: what it is run on, by which runtime, with how many threads."""

    path: Path
    inputs: Any
    runtime: str = "ort"
    threads: int = 1


def timed(
    files: Mapping[str, Path],
    inputs: Any,
    target: Target | None = None,
    budget: Budget | None = None,
    want: Sequence[str] = (),
) -> Comparison:
    """Time files on `target`, all on the same inputs; the ratios are to the first, none if it is alone.

    `want`: "memory" (peak, of each alone), "first" (load and first run of each alone), "profile", "outputs". Raises
    SurgeonError where the device cannot be reached, or its runtime cannot load or run a file.
    """
    target = target or Target()
    entries = {
        name: Entry(Path(path), inputs, target.runtime, target.threads)
        for name, path in files.items()
    }
    return race(entries, target.device, budget, want)


def race(
    entries: Mapping[str, Entry],
    device: str = "local",
    budget: Budget | None = None,
    want: Sequence[str] = (),
) -> Comparison:
    """As `timed`, each with inputs, runtime and threads of its own."""
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder:
        files: dict[str, Path] = {}
        models = [
            {
                "name": name,
                "runtime": entry.runtime,
                "file": _file(files, entry.path),
                "inputs": _inputs(files, entry.inputs, Path(folder)),
                "threads": entry.threads,
            }
            for name, entry in entries.items()
        ]
        job = {
            "do": "time",
            "seed": 0,
            "models": models,
            "budget": asdict(budget or Budget()),
            "want": list(want),
        }
        return _read(open_device(device).run(job, files))


def made(model: nn.Module, inputs: Any, target: Target, path: Path) -> Path:
    """Write the file of `model` that `target` runs, for inputs of just these sizes, and say where it is: at `path`, with the
    suffix of its kind. BadInput where it cannot be made, or where it is for this machine, which cannot run it."""
    # making files is above measuring in the map: only this call uses it
    from surgeon.runtimes import make, require, runtime

    if target.device == "local":
        require(runtime(target.runtime), running=True)
    return make(model, inputs, target.runtime, path)[0]


def _file(files: dict[str, Path], path: Path) -> str:
    """The name of a network's file there: its own, which messages then speak of, or a number."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    data = path.with_name(path.name + ".data")  # named in the file, so both keep their names
    name = path.name
    if files.get(name, path) != path or name in _TAKEN or not _PLAIN.fullmatch(name):
        name = next(n for k in count(len(files)) if (n := f"{k}{path.suffix}") not in files)
        if data.is_file():
            raise BadInput(f"{path.name} has its weights in {data.name}", "rename and export again")
    files[name] = path
    if data.is_file():
        files[data.name] = data
    return name


def _inputs(files: dict[str, Path], inputs: Any, folder: Path) -> str:
    import numpy as np

    name = f"{len(files)}.npz"
    np.savez(folder / name, allow_pickle=False, **arrays(inputs))
    files[name] = folder / name
    return name


def _read(answer: Mapping[str, Any]) -> Comparison:
    told: Mapping[str, Any] = answer["models"]
    found = comparison(
        {name: Laps(**_fields(Laps, one)) for name, one in told.items()},
        answer["place"]["pressure"],
    )
    facts = {name: _facts(one) for name, one in told.items()}
    return replace(found, facts=facts, place=answer["place"])


def _facts(told: Mapping[str, Any]) -> Facts:
    own = _fields(Facts, told)
    if own["outputs"] is not None:
        own["outputs"] = tuple(unpacked(own["outputs"]))
    if own["profile"] is not None:
        own["profile"] = tuple(own["profile"])
    return Facts(**own)


def _fields(kind: type, told: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: told[field.name] for field in fields(kind)}
