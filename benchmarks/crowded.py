"""Two networks timed on one core that others use as well: what becomes of their ratio?

    python -m benchmarks.crowded [--core 1] [--seconds 6] [--width 64]

Everything is bound to one core: the timing, and none, one, two or three processes beside it that never rest. `told` is
the ratio that surgeon tells, `medians` the quotient of the median wall times, `on the CPU` the share of the time in which
the networks had the core. The second network is half as wide; the first line says what is right.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.networks import environment
from benchmarks.selfsame import network
from surgeon.export import export_onnx
from surgeon.measure import Budget
from surgeon.measure.bench import timed


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--width", type=int, default=64)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {asked.core})
    torch.set_num_threads(1)
    example, budget = torch.randn(1, 3, 32, 32), Budget(max_s=asked.seconds)
    print(environment() + "\n")
    print(
        "| others | told | medians | wide, ms | narrow, ms | on the CPU |\n|--:|--:|--:|--:|--:|--:|"
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as others:
        files = {
            str(width): export_onnx(network(width), Path(folder) / f"{width}.onnx", example, dynamic_batch=False).path
            for width in (asked.width, asked.width // 2)
        }  # fmt: skip
        for count in range(4):
            if count:
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                others.callback(busy.wait)
                others.callback(busy.kill)
            found = timed(files, example, budget=budget)
            (ratio,), (wide, narrow) = found.ratios.values(), found.timings.values()
            share = min(wide.cpu_share or 0.0, narrow.cpu_share or 0.0)
            print(
                f"| {count} | {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] | {narrow.median_s / wide.median_s:.3f} | "
                f"{1e3 * wide.median_s:.3f} | {1e3 * narrow.median_s:.3f} | {share:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
