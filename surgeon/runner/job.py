"""A job is done: networks are loaded, run once, timed in random turns, and looked at alone where that was wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from surgeon.runner import MARK, memory, noise
from surgeon.runner.arrays import packed, read
from surgeon.runner.engines import engine
from surgeon.runner.probe import probe
from surgeon.runner.refusal import Refusal
from surgeon.runner.sampling import Budget, Laps, sample

WANTED = ("memory", "profile", "outputs", "first")
_ALONE_S = 300
_PROFILED_RUNS = 3, 20  # at the least and the most; between them for
_PROFILED_S = 2.0


def do(folder: Path) -> dict[str, Any]:
    """What the answer's "ok" holds; a Refusal where it cannot be done."""
    job = _job(folder)
    if job["do"] == "probe":
        return probe()
    if job["do"] != "time":
        raise Refusal("bad job", "no such thing to do: " + str(job["do"]))
    want = job.get("want", [])
    _keep_caches(folder / "inductor")
    alones = {}
    if "memory" in want or "first" in want:  # before this process fills the caches
        alones = {model["name"]: _alone(folder, at) for at, model in enumerate(job["models"])}
    loaded = {model["name"]: _loaded(folder, model) for model in job["models"]}
    outputs, first = {}, {}
    for name, one in loaded.items():
        start = time.perf_counter()
        outputs[name] = one.outputs()  # fails here, with a message
        first[name] = time.perf_counter() - start
    throttled = noise.throttled()
    sampled = sample(loaded, Budget(**job.get("budget", {})), seed=job.get("seed", 0))
    place = probe()
    place["throttled"] = place["throttled"] or throttled
    answers = {}
    for model in job["models"]:
        name, one = model["name"], loaded[model["name"]]
        answers[name] = {
            "runtime": model["runtime"],
            "version": one.version,
            "precision": one.precision,
            "threads": one.threads,
            "load_s": one.load_s,
            "file_bytes": _bytes(folder / model["file"]),
            "peak_memory": None,
            "profile": one.profile(_profiled(sampled[name])) if "profile" in want else None,
            "outputs": packed(outputs[name]) if "outputs" in want else None,
        }
        answers[name].update(vars(sampled[name]))
        answers[name]["first_s"] = first[name]
        answers[name].update(alones.get(name, {}))
    return {"models": answers, "place": place}


def alone(folder: Path, at: int) -> dict[str, Any]:
    """Peak memory, load time and first run of one network, which this process holds alone.

    The peak is of resident memory after the runtime and the inputs are loaded, less what is resident then.
    """
    model = _job(folder)["models"][at]
    _keep_caches(folder / f"inductor-{at}")
    arrays = read(folder / model["inputs"])
    found = engine(model["runtime"])
    baseline = memory.start_of_peak()
    one = found.Engine(folder / model["file"], arrays, model["threads"])
    start = time.perf_counter()
    one()
    first_s = time.perf_counter() - start
    for _ in range(2):  # the first run plans memory, the next reuse it
        one()
    reached = memory.peak()
    used = None if reached is None else max(reached - baseline, 0)
    return {"peak_memory": used, "load_s": one.load_s, "first_s": first_s}


def _profiled(laps: Laps) -> int:
    """How many runs are profiled."""
    least, most = _PROFILED_RUNS
    return min(max(int(_PROFILED_S / max(median(laps.laps), 1e-9)), least), most)


def _alone(folder: Path, at: int) -> dict[str, Any]:
    """From a process of its own; nothing where that fails or takes five minutes."""
    try:
        child = subprocess.run(
            [sys.executable, sys.argv[0], "--alone", str(folder), str(at)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ALONE_S,
            check=True,
        )
        line = child.stdout.decode("utf-8").strip()
        return json.loads(line[len(MARK) :]).get("ok", {})
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def _keep_caches(folder: Path) -> None:
    """What torch compiles is new every time and goes with the job; torch makes a folder as soon as it is imported."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def _job(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal("bad job", "job.json cannot be read: " + str(error)) from error


def _loaded(folder: Path, model: dict[str, Any]) -> Any:
    try:
        arrays = read(folder / model["inputs"])
    except ImportError as error:
        raise Refusal("no runtime", "numpy is not installed there", "pip install numpy") from error
    return engine(model["runtime"]).Engine(folder / model["file"], arrays, model["threads"])


def _bytes(path: Path) -> int:
    """Of a file and of the external data that surgeon stores beside it as NAME.data."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)
