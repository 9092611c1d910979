"""One network timed against itself, beside a program that keeps the second core busy: how often is a difference seen?

    python benchmarks/selfsame.py --trials 100 --seconds 2

Each trial is what `surgeon bench A.onnx A.onnx --max-time SECONDS` does: a process of its own that loads the
file twice and times both in random turns. There is no difference, so that every other verdict is an error; the
aim is at least 95 of 100 without one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from surgeon.export import export_onnx
from surgeon.measure import Budget
from surgeon.measure.bench import timed
from surgeon.measure.latency import Ratio


def network(width: int) -> nn.Module:
    """Convolutions of one width: 16 takes a tenth of a millisecond, 64 about one."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@contextlib.contextmanager
def burner(cores: int) -> Iterator[None]:
    """Processes that never rest on as many cores, from the second on."""
    usable = sorted(os.sched_getaffinity(0))
    code = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    busy = [
        subprocess.Popen([sys.executable, "-c", code, str(usable[at % len(usable)])])
        for at in range(1, cores + 1)
    ]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def trial(path: Path, example: torch.Tensor, seconds: float) -> Ratio:
    """The ratio of a file to itself."""
    budget = Budget(min_s=min(2.0, seconds), max_s=seconds)
    return timed({"first": path, "again": path}, example, budget=budget).ratios["again"]


def main() -> None:
    """Print a line a trial, then the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each of the two")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--busy", type=int, default=1, help="cores that are kept busy")
    asked = parser.parse_args()
    example, verdicts, worst = torch.randn(1, 3, 32, 32), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder, burner(asked.busy):
        path = export_onnx(
            network(asked.width), Path(folder) / "net.onnx", example, dynamic_batch=False
        ).path
        for number in range(asked.trials):
            ratio = trial(path, example, asked.seconds)
            verdicts[ratio.verdict] += 1
            worst = max(worst, abs(math.log(ratio.value)))
            line = {"trial": number, **vars(ratio)}
            print(json.dumps(line), flush=True)
    same = verdicts["no difference"]
    print(f"no difference: {same} of {asked.trials}; the worst ratio was {math.exp(worst):.4f}")


if __name__ == "__main__":
    main()
