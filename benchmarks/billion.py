"""A transformer of more than a billion parameters, on the meta device: traced, coupled and planned without weights.

    python benchmarks/billion.py [--layers N ...]

Ratio 0.5, random criterion. Seconds of CPU on one thread, and peak memory above a fresh
process that holds the (empty) model.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.cost import timed
from benchmarks.networks import environment
from models.language import BILLION, on_meta
from surgeon.shrink import propose


def row(layers: int) -> str:
    """One line of the table, measured in this process."""
    torch.set_num_threads(1)
    model = on_meta(replace(BILLION, layers=layers))
    parameters = sum(p.numel() for p in model.parameters())
    ids = torch.zeros(2, 16, dtype=torch.long)
    found, cost = timed(lambda: propose(model, ids, 0.5, criterion="random"))
    ops, groups = len(found.traced.graph.nodes), len(found.plan.groups)
    return f"| {layers} | {parameters:,} | {ops:,} | {groups} | {cost['seconds']:.1f} | {cost['mb']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 8, BILLION.layers, 32])
    parser.add_argument("--child", type=int)
    options = parser.parse_args()
    if options.child:
        print(row(options.child))
        return
    print(environment(), "\n")
    print("| layers | parameters | recorded ops | groups | s | MB |")
    print("|--:|--:|--:|--:|--:|--:|")
    for layers in options.layers:
        command = [sys.executable, __file__, "--child", str(layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
