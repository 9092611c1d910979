"""How much accuracy is left after a cut without any training, surgeon beside torch-pruning, on CIFAR-10.

    python benchmarks/accuracy.py --results accuracy.jsonl [--only TEXT ...]
    python benchmarks/accuracy.py --results accuracy.jsonl --table -

ResNet-20 and ResNet-56, every prunable group, at the FLOPs of the aims. Both tools get the same 1024 images of the train
split, without labels; they are drawn before anything is measured, and the test images are used once a row, for its top-1.
A row that the results file holds is not run again; `--only` names the rows that are run now, by parts of their names.
Seconds are of CPU, for the cut and what follows it, without the evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cifar, peer_cifar
from benchmarks.accuracy_table import AIMS, read, table
from benchmarks.cost import timed

IMAGES, SEED = 1024, 0
_BATCH = 128
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One cut of one network; it makes one row, or two where `recalibrated` is a row beside it."""

    depth: int
    limit: float | None  # share of the FLOPs left; None for the dense network
    method: str
    criterion: str = ""
    scope: str = ""

    @property
    def name(self) -> str:
        """What tells a row from all others, but for what came after the cut."""
        parts = (f"resnet{self.depth}", self.limit and f"{self.limit:g}x", self.method)
        return " ".join(str(p) for p in (*parts, self.criterion, self.scope) if p)


def jobs() -> list[Job]:
    """All rows: the dense networks and surgeon's first."""
    first = [Job(depth, None, "dense") for depth in (20, 56)]
    ours = [Job(d, x, m) for d, x in AIMS for m in ("surgeon with data", "surgeon l2")]
    ways = [(c, s) for c in peer_cifar.CRITERIA for s in peer_cifar.SCOPES]
    theirs = [Job(d, x, "torch-pruning", c, s) for d, x in AIMS for c, s in ways]
    return first + ours + theirs


class Bench:
    """The images and the networks, read when they are first asked for."""

    def __init__(self, pictures: Path, weights: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self._weights = weights
        self.train = cifar.train_images(IMAGES, SEED, pictures)
        self._test = cifar.test_images(pictures)
        self._example = torch.zeros(2, 3, 32, 32)

    def rows(self, job: Job) -> Iterator[Row]:
        """Run one job. A tool that fails gives a row that says so."""
        base = cifar.dense(job.depth, self._weights)
        try:
            found = list(self._variants(job, base))
        except Exception as error:  # noqa: BLE001  a crash of either tool is its row
            yield {**_facts(job, ""), "failed": f"{type(error).__name__}: {error}"[:200]}
            return
        for after, model, reference, seconds in found:
            share = self._flops(model) / self._flops(reference)
            numbers = {"flops": share, "top1": cifar.top1(model, *self._test), "seconds": seconds}
            yield {**_facts(job, after), **numbers}

    def _variants(self, job: Job, base: Any) -> Iterator[tuple[str, Any, Any, float]]:
        """(what was done after the cut, network, dense network that its FLOPs are counted against, seconds)."""
        if job.limit is None:
            yield "", base, base, 0.0
            return
        if job.method != "torch-pruning":
            slim, cost = timed(lambda: self._surgeon(job, base))
            yield "", slim, base, cost["seconds"]
            return
        usable = peer_cifar.convolved(base)
        slim, cost = timed(lambda: self._peer(job, usable))
        yield "", slim, usable, cost["seconds"]
        again, more = timed(lambda: peer_cifar.recalibrated(slim, self.train))
        yield "recalibrated", again, usable, cost["seconds"] + more["seconds"]

    def _surgeon(self, job: Job, base: Any) -> Any:
        from surgeon.shrink import shrink

        limit = f"{job.limit}x"
        if job.method == "surgeon l2":
            return shrink(base, self._example, max_flops=limit, criterion="l2", measure=False).model
        data = list(self.train.split(_BATCH))
        return shrink(base, self._example, max_flops=limit, data=data, measure=False).model

    def _peer(self, job: Job, usable: Any) -> Any:
        assert job.limit is not None
        how = (job.criterion, job.scope)
        return peer_cifar.cut_to(usable, how, job.limit, self.train, self._flops)

    def _flops(self, model: Any) -> float:
        from surgeon.measure.count import flops

        return float(flops(model, self._example).total)


def _facts(job: Job, after: str) -> Row:
    name = f"{job.name} {after}".strip()
    return {
        "row": name,
        "depth": job.depth,
        "limit": job.limit,
        "method": name.split(" ", 2 if job.limit else 1)[-1],
    }


def run(bench: Callable[[], Bench], results: Path, only: list[str]) -> None:
    """Run what is asked for and not there, one line of JSON a row."""
    ready: Bench | None = None
    for job in jobs():
        done = {row["row"] for row in read(results)}
        if job.name in done or (only and not all(text in job.name for text in only)):
            continue
        ready = ready or bench()
        rows = list(ready.rows(job))
        with results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--table", help="write the Markdown table there and run nothing; - prints")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names hold all of these")
    parser.add_argument(
        "--data", type=Path, default=cifar.PICTURES, help="zip, or torchvision's folder"
    )
    parser.add_argument("--weights", type=Path, default=cifar.WEIGHTS, help="folder")
    options = parser.parse_args()
    if not options.table and options.data.suffix == ".zip" and not options.data.exists():
        parser.error(f"no {options.data}; --data FOLDER gets CIFAR-10 through torchvision")
    if not options.table:
        run(lambda: Bench(options.data, options.weights), options.results, options.only)
    elif options.table == "-":
        print(table(read(options.results)))
    else:
        Path(options.table).write_text(table(read(options.results)) + "\n")


if __name__ == "__main__":
    main()
