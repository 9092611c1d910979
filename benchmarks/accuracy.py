"""How much accuracy is left after a cut, without any training and with some, surgeon beside torch-pruning, on CIFAR-10.

    python benchmarks/accuracy.py --results accuracy.jsonl [--only TEXT ...] [--epochs N ...]
    python benchmarks/accuracy.py --results accuracy.jsonl --table -

ResNet-20 and ResNet-56, every prunable group, at the FLOPs of the aims. Both tools get the same 1024 images of the train
split, without labels; they are drawn before anything is measured, and the test images are used once a row, for its top-1.
Then ResNet-56 at the least FLOPs is tuned on all training images, with labels, for each number of `--epochs` (2 by default,
minutes an epoch on a CPU; 20 and 100 are for GPUs): `train_cifar.py` has the recipe, which is the same for both tools.
A row that the results file holds is not run again, and one that was killed goes on after its last epoch: networks and
states are kept in a folder beside that file; `--only` names the rows that are run now, by parts of their names.
Seconds are of CPU, for the cut and what follows it, without the evaluation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cifar, peer_cifar
from benchmarks.accuracy_table import AIMS, read, table
from benchmarks.cost import timed
from benchmarks.train_cifar import Kept, tuned
from models.cifar_resnet import resnet

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
    epochs: int = 0  # of tuning after the cut

    @property
    def name(self) -> str:
        """What tells a row from all others, but for what came after the cut."""
        parts = (f"resnet{self.depth}", self.limit and f"{self.limit:g}x", self.method)
        tuned = self.epochs and f"tuned {self.epochs} epochs"
        return " ".join(str(p) for p in (*parts, self.criterion, self.scope, tuned) if p)


TUNED = (56, 0.476)
# torch-pruning's: the best without training, and what its examples do
_TUNED_WAYS = (
    ("surgeon with data", "", ""),
    ("torch-pruning", "Taylor", "global"),
    ("torch-pruning", "L2", "local"),
)


def jobs(epochs: Sequence[int] = (2,)) -> list[Job]:
    """All rows: the dense networks and surgeon's first, those with training last."""
    first = [Job(depth, None, "dense") for depth in (20, 56)]
    ours = [Job(d, x, m) for d, x in AIMS for m in ("surgeon with data", "surgeon l2")]
    ways = [(c, s) for c in peer_cifar.CRITERIA for s in peer_cifar.SCOPES]
    theirs = [Job(d, x, "torch-pruning", c, s) for d, x in AIMS for c, s in ways]
    return first + ours + theirs + [Job(*TUNED, *way, n) for n in epochs for way in _TUNED_WAYS]


class Bench:
    """The images and the networks, read when they are first asked for."""

    def __init__(self, pictures: Path, weights: Path, kept: Kept, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        self._weights, self._pictures, self._kept = weights, pictures, kept
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
        usable = base if job.method != "torch-pruning" else peer_cifar.convolved(base)
        if job.epochs:
            yield self._tuned(job, usable)
            return
        slim, cost = timed(lambda: self._cut(job, usable))
        yield "", slim, usable, cost["seconds"]
        if usable is not base:
            again, more = timed(lambda: peer_cifar.recalibrated(slim, self.train))
            yield "recalibrated", again, usable, cost["seconds"] + more["seconds"]

    def _tuned(self, job: Job, usable: Any) -> tuple[str, Any, Any, float]:
        """The cut network, torch-pruning's with its batch norms recalibrated, after the epochs."""
        plain = replace(job, epochs=0)
        if not self._kept.has(plain.name):
            cut = self._cut(plain, usable)
            if job.method == "torch-pruning":
                self._kept.save(plain.name, peer_cifar.recalibrated(cut, self.train))
        slim = self._kept.load(plain.name, resnet(job.depth))
        state = self._kept.path(job.name, ".state.pt")
        model, seconds = tuned(slim, job.epochs, state, self._pictures)
        return "", model, usable, seconds

    def _cut(self, job: Job, usable: Any) -> Any:
        """What surgeon's `shrink` gave is kept on disk."""
        from surgeon.shrink import shrink

        assert job.limit is not None
        if job.method == "torch-pruning":
            how = (job.criterion, job.scope)
            return peer_cifar.cut_to(usable, how, job.limit, self.train, self._flops)
        data = None if job.method == "surgeon l2" else list(self.train.split(_BATCH))
        options: Any = {"data": data} if data else {"criterion": "l2"}
        limit = f"{job.limit}x"
        found = shrink(usable, self._example, max_flops=limit, measure=False, **options)
        self._kept.save(job.name, found)
        return found.model

    def _flops(self, model: Any) -> float:
        from surgeon.measure.count import flops

        return float(flops(model, self._example).total)


def _facts(job: Job, after: str) -> Row:
    name = f"{job.name} {after}".strip()
    return {
        "row": name,
        "depth": job.depth,
        "epochs": job.epochs,
        "limit": job.limit,
        "method": name.split(" ", 2 if job.limit else 1)[-1],
    }


def run(
    bench: Callable[[], Bench], results: Path, only: list[str], epochs: Sequence[int] = (2,)
) -> None:
    """Run what is asked for and not there, one line of JSON a row."""
    ready: Bench | None = None
    for job in jobs(epochs):
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
    parser.add_argument("--epochs", nargs="*", type=int, default=[2], help="of tuning, each a row")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not options.table and options.data.suffix == ".zip" and not options.data.exists():
        parser.error(f"no {options.data}; --data FOLDER gets CIFAR-10 through torchvision")
    if not options.table:
        kept = Kept(options.results.with_suffix(".networks"))
        ready = lambda: Bench(options.data, options.weights, kept, options.threads)  # noqa: E731
        run(ready, options.results, options.only, options.epochs)
    elif options.table == "-":
        print(table(read(options.results)))
    else:
        Path(options.table).write_text(table(read(options.results)) + "\n")


if __name__ == "__main__":
    main()
