"""Coupling time against depth: from graph to groups, for CIFAR ResNets of 20 to 1202 layers and a DenseNet.

    python benchmarks/linear.py [--runs 5]

Linear means that the last column, microseconds a recorded op, does not grow.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.networks import environment
from models.cifar_resnet import resnet
from models.small import densenet
from surgeon.couple import couple
from surgeon.trace.record import record


def seconds(graph: object) -> tuple[float, int]:
    """Time from graph to groups, and how many there are."""
    start = time.perf_counter()
    groups = couple(graph).groups  # type: ignore[arg-type]
    return time.perf_counter() - start, len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    print(environment(), "\n")
    print("| network | recorded ops | groups | coupling s | us an op |")
    print("|---|--:|--:|--:|--:|")
    networks = [(f"resnet{d}", lambda d=d: resnet(d)) for d in (20, 56, 110, 218, 434, 866, 1202)]
    networks += [
        (f"densenet, {b} blocks", lambda b=b: densenet(blocks=b)) for b in (3, 6, 12, 24, 48)
    ]
    for name, build in networks:
        graph = record(build().eval(), (torch.zeros(2, 3, 32, 32),))
        found = [seconds(graph) for _ in range(runs)]
        took = median(s for s, _ in found)
        ops = len(graph.nodes)
        print(
            f"| {name} | {ops:,} | {found[0][1]} | {took:.3f} | {took / ops * 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
