"""Time and memory from a model to its cut copy, surgeon beside torch-pruning, each run a fresh process.

    python benchmarks/speed.py [--runs 5] [NETWORK ...]

trace + couple + score + plan + cut at ratio 0.5, L2, local; no oracle, no measuring. Imports are not
counted; the runs of the two tools alternate. Seconds are of CPU, on one thread. Memory is the peak above the process with the model
loaded (VmHWM reset before the run where the kernel allows it), so the slim copy counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cost import timed

NETWORKS = ["mobilenet_v2", "resnet50", "convnext_tiny", "inception_v3", "vit_b_32", "densenet121"]


def surgeon_run(name: str) -> dict[str, float]:
    """One cut by surgeon in this process."""
    from benchmarks.networks import build
    from surgeon.shrink import shrink  # imports are not what is timed

    model, inputs = build(name)
    return timed(lambda: shrink(model, inputs, ratio=0.5, check=False, measure=False))[1]


def torch_pruning_run(name: str) -> dict[str, float]:
    """One cut by torch-pruning, called as its examples do; attention heads told where it needs them."""
    import torch
    import torch_pruning as tp

    from benchmarks.networks import build, classifiers

    model, inputs = build(name)
    heads = {m: m.num_heads for m in model.modules() if isinstance(m, torch.nn.MultiheadAttention)}

    def cut() -> None:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            model,
            inputs[0],
            importance=importance,
            pruning_ratio=0.5,
            ignored_layers=classifiers(model),
            num_heads=heads,
        )
        pruner.step()

    return timed(cut)[1]


RUNS = {"surgeon": surgeon_run, "torch-pruning": torch_pruning_run}


def child(tool: str, name: str) -> dict[str, float] | str:
    """One run in a fresh process: its numbers, or the first line of its error."""
    command = [sys.executable, __file__, "--child", tool, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return lines[-1][:90]
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, runs: int) -> str:
    """One line of the table: medians of alternating runs."""
    seen: dict[str, list[dict[str, float]]] = {tool: [] for tool in RUNS}
    failed: dict[str, str] = {}
    for _ in range(runs):
        for tool in RUNS:
            result = child(tool, name)
            if isinstance(result, str):
                failed[tool] = result
            else:
                seen[tool].append(result)
    cells = []
    for tool in RUNS:
        if failed.get(tool):
            cells.append(f"fails: {failed[tool]} | ")
            continue
        cells.append(
            f"{median(r['seconds'] for r in seen[tool]):.2f} | {median(r['mb'] for r in seen[tool]):.0f}"
        )
    ratio = "-"
    if not failed:
        ratio = f"{median(a['seconds'] / b['seconds'] for a, b in zip(*seen.values(), strict=True)):.2f}"
    return f"| {name} | {' | '.join(cells)} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", nargs=1)
    options = parser.parse_args()
    if options.child:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(RUNS[options.child[0]](options.networks[0])))
        return
    from benchmarks.networks import environment

    print(environment(), "\n")
    print("| network | surgeon s | MB | torch-pruning s | MB | time ratio |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in options.networks:
        print(row(name, options.runs), flush=True)


if __name__ == "__main__":
    main()
