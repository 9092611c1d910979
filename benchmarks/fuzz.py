"""Random networks, each shrunk by a random request: proven, refused by name, or wrong.

    python benchmarks/fuzz.py [--draws 10000] [--seed 0] [--deep 50] [--results FILE]

hypothesis draws the networks of tests/fuzz in batches of 100, one seed a batch. Every `--deep`-th network
is also cut by the other surgery, exported to ONNX and compared in ONNX Runtime, saved, loaded, and trained
for a step. Batches that are in the results file are counted and not run again. What is wrong is printed
with the least network that is wrong in the same way.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz import Ask, Recipe, Verdict, asks, judge, pruned, recipes
from hypothesis import HealthCheck, Phase, assume, given, seed, settings

from benchmarks.networks import environment

BATCH = 100


@dataclass
class Tally:
    """What came of the draws of one seed."""

    seed: int
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    free: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, recipe: Recipe, ask: Ask, verdict: Verdict, deep: bool) -> None:
        """Count one verdict; the first of its way to be wrong is printed with its least network."""
        self.kinds[verdict.kind] += 1
        self.left.update(verdict.left)
        self.free, self.cut = self.free + verdict.cut[0], self.cut + verdict.cut[1]
        if verdict.kind == "refused":
            self.refused[verdict.why] += 1
        if verdict.kind == "program":
            self.programs[verdict.why] += 1
        if verdict.kind == "wrong":
            if verdict.why not in self.wrong:
                repro(recipe, ask, verdict, deep)
            self.wrong.append(verdict.why)


def repro(recipe: Recipe, ask: Ask, verdict: Verdict, deep: bool) -> None:
    """Print the least network that is wrong in this way."""
    print(f"wrong: {verdict.detail}\n    judge({recipe}, {ask}, {deep})", flush=True)

    def fails(candidate: Recipe) -> bool:
        again = judge(candidate, ask, deep)
        return (again.kind, again.why) == (verdict.kind, verdict.why)

    print(f"the least:\n    judge({pruned(recipe, fails)}, {ask}, {deep})\n", flush=True)


def batch(number: int, draws: int, deep: int) -> Tally:
    """Draw and judge the networks of one seed, no two of the same layers in the same places."""
    tally = Tally(number)
    seen: set[tuple[Any, ...]] = set()

    @seed(number)
    @settings(
        max_examples=draws,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(), asks())
    def run(recipe: Recipe, ask: Ask) -> None:
        skeleton = tuple((s.kind, s.on) for s in recipe.steps)
        assume(skeleton not in seen)
        seen.add(skeleton)
        more = bool(deep) and tally.kinds.total() % deep == deep - 1
        tally.add(recipe, ask, judge(recipe, ask, more), more)

    run()
    return tally


def table(title: str, counts: Counter[str], total: int, most: int = 25) -> None:
    """The most frequent lines with their shares."""
    print(f"\n| {title} | | |\n|---|--:|--:|")
    for what, n in counts.most_common(most):
        print(f"| {what.replace('|', '/')} | {n} | {n / max(total, 1):.1%} |")


def summary(tallies: list[Tally]) -> None:
    """Everything that was counted."""

    def over(what: str) -> Counter[str]:
        return sum((Counter(getattr(t, what)) for t in tallies), Counter())

    kinds = over("kinds")
    removed = sum(t.cut for t in tallies) / max(sum(t.free for t in tallies), 1)
    print(
        f"{kinds.total()} networks of {len(tallies)} seeds; {removed:.0%} of the channels that may be"
    )
    print("cut were removed")
    table("verdict", kinds, kinds.total())
    table("refused because", over("refused"), kinds.total())
    table("program surgery because", over("programs"), kinds.total())
    table("channels, by why they stay", over("left"), over("left").total())
    wrong: Counter[str] = sum((Counter(t.wrong) for t in tallies), Counter())
    table("wrong", wrong, kinds.total())


def _read(line: str) -> Tally:
    data = json.loads(line)
    counters = {k: Counter(v) for k, v in data.items() if isinstance(v, dict)}
    return Tally(**{**data, **counters})


def _batches(seeds: list[int], draws: int, deep: int, jobs: int) -> Iterator[Tally]:
    if jobs == 1:
        yield from (batch(n, draws, deep) for n in seeds)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(batch, seeds, repeat(draws), repeat(deep))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    parser.add_argument("--deep", type=int, default=50, help="every n-th network; 0 for none")
    parser.add_argument(
        "--results", type=Path, help="one JSON line a batch; its batches are not run again"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(environment(), "\n", flush=True)
    lines = (
        options.results.read_text().splitlines()
        if options.results and options.results.exists()
        else []
    )
    done = {t.seed: t for t in map(_read, lines)}
    todo = [
        n for n in range(options.seed, options.seed + -(-options.draws // BATCH)) if n not in done
    ]
    start = time.perf_counter()
    for tally in _batches(todo, min(options.draws, BATCH), options.deep, options.jobs):
        done[tally.seed] = tally
        if options.results:
            with options.results.open("a") as file:
                file.write(json.dumps(vars(tally)) + "\n")
        seconds = time.perf_counter() - start
        print(
            f"seed {tally.seed}: {dict(tally.kinds)}, {seconds:.0f} s", file=sys.stderr, flush=True
        )
    summary(list(done.values()))
    sys.exit(any(t.wrong for t in done.values()))


if __name__ == "__main__":
    main()
