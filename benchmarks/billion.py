"""A transformer of more than a billion parameters, on the meta device: traced, coupled and planned without weights.

    python benchmarks/billion.py [--layers N]

Ratio 0.5, random criterion. Seconds and peak memory above the process that holds the (empty) model.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.networks import environment
from benchmarks.speed import peak, reset_peak
from models.language import BILLION, on_meta
from surgeon.shrink import propose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 8, BILLION.layers, 32])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(environment(), "\n")
    print("| layers | parameters | recorded ops | groups | s | MB |")
    print("|--:|--:|--:|--:|--:|--:|")
    for layers in options.layers:
        model = on_meta(replace(BILLION, layers=layers))
        parameters = sum(p.numel() for p in model.parameters())
        base, start = reset_peak(), time.perf_counter()
        found = propose(model, torch.zeros(2, 16, dtype=torch.long), 0.5, criterion="random")
        seconds, groups = time.perf_counter() - start, len(found.plan.groups)
        ops = len(found.traced.graph.nodes)
        print(
            f"| {layers} | {parameters:,} | {ops:,} | {groups} | {seconds:.1f} | {(peak() - base) / 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
