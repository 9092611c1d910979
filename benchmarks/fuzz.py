"""Random networks, each shrunk by a random request: proven, refused by name, or wrong.

    python benchmarks/fuzz.py [--draws 10000] [--seed 0] [--deep 20]

hypothesis draws the networks of tests/fuzz in batches of 100, one seed a batch: `--seed` goes on where an
earlier run stopped. Every `--deep`-th network is also cut by the other surgery, exported to ONNX and
compared in ONNX Runtime, saved, loaded, and trained for a step. What is wrong is printed with the least
network that is wrong in the same way.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz import Ask, Recipe, Verdict, asks, judge, pruned, recipes
from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.networks import environment

BATCH = 100


@dataclass
class Tally:
    """What came of all draws so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[tuple[Recipe, Ask, bool]]] = field(default_factory=dict)
    cut: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, recipe: Recipe, ask: Ask, verdict: Verdict, deep: bool) -> None:
        """Count one verdict."""
        self.kinds[verdict.kind] += 1
        self.left.update(verdict.left)
        if verdict.kind == "refused":
            self.refused[verdict.why] += 1
        if verdict.kind == "program":
            self.programs[verdict.why] += 1
        if verdict.kind == "wrong":
            if verdict.why not in self.wrong:
                print(f"wrong: {verdict.detail}\n    judge({recipe}, {ask}, {deep})", flush=True)
            self.wrong.setdefault(verdict.why, []).append((recipe, ask, deep))
        self.cut = [a + b for a, b in zip(self.cut, verdict.cut, strict=True)]


def batch(tally: Tally, number: int, draws: int, deep: int) -> None:
    """Draw and judge the networks of one seed."""
    count = 0

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
        nonlocal count
        count += 1
        more = bool(deep) and count % deep == 0
        tally.add(recipe, ask, judge(recipe, ask, more), more)

    run()


def table(title: str, counts: Counter[str], total: int, most: int = 25) -> None:
    """The most frequent lines with their shares."""
    print(f"\n| {title} | | |\n|---|--:|--:|")
    for what, n in counts.most_common(most):
        print(f"| {what.replace('|', '/')} | {n} | {n / max(total, 1):.1%} |")


def repros(tally: Tally) -> None:
    """One least network for each way to be wrong."""
    for why, found in tally.wrong.items():
        recipe, ask, deep = found[0]

        def fails(candidate: Recipe, why: str = why, ask: Ask = ask, deep: bool = deep) -> bool:
            verdict = judge(candidate, ask, deep)
            return (verdict.kind, verdict.why) == ("wrong", why)

        print(f"\nwrong, {len(found)} times: {why}")
        print(f"    judge({pruned(recipe, fails)}, {ask}, {deep})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first batch of 100")
    parser.add_argument("--deep", type=int, default=20, help="every n-th network; 0 for none")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(environment(), "\n", flush=True)
    tally, start, number = Tally(), time.perf_counter(), options.seed
    while (left := options.draws - tally.kinds.total()) > 0:
        batch(tally, number, min(left, BATCH), options.deep)
        number += 1
        seconds = time.perf_counter() - start
        print(
            f"seed {number - 1}: {dict(tally.kinds)}, {seconds:.0f} s", file=sys.stderr, flush=True
        )
        if seconds > options.seconds:
            break
    total = tally.kinds.total()
    print(
        f"{total} networks, seeds {options.seed} to {number - 1}; of the channels in groups that may"
    )
    print(f"be cut {tally.cut[1] / max(tally.cut[0], 1):.0%} were removed")
    table("verdict", tally.kinds, total)
    table("refused because", tally.refused, total)
    table("program surgery because", tally.programs, total)
    table("channels left alone because", tally.left, tally.left.total())
    repros(tally)
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()
