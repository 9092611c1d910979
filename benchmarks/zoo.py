"""Every network of the list at ratio 0.5, local and global: proven, exported, run; torch-pruning beside it.

    python benchmarks/zoo.py [NETWORK ...]

Each network of each tool in a process of its own, 300 s at most. surgeon: which surgery, shares of
parameters and FLOPs removed, the oracle's error, ONNX Runtime's error against PyTorch. torch-pruning
1.6 (L2, 0.5, classifier ignored, as its examples do): whether the forward runs afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import CIFAR, OURS, TORCHVISION, build, classifiers, environment


def surgeon_run(name: str, scope: str) -> dict[str, Any]:
    """Shrink, prove, count, export and run one network."""
    import surgeon
    from surgeon.measure.count import flops, parameters

    model, inputs = build(name)
    result = surgeon.shrink(model, inputs, ratio=0.5, scope=scope, measure=False)
    with tempfile.TemporaryDirectory() as folder:
        onnx = surgeon.export_onnx(result.model, Path(folder) / "slim.onnx", inputs)
    assert result.check is not None
    return {
        "way": result.way,
        "params": 1 - parameters(result.model) / parameters(model),
        "flops": 1 - flops(result.model, inputs).total / flops(model, inputs).total,
        "error": result.check.error,
        "onnx": onnx.worst_error,
    }


def torch_pruning_run(name: str, scope: str) -> dict[str, Any]:
    """Cut by torch-pruning, then run forward."""
    import torch
    import torch_pruning as tp

    model, inputs = build(name)
    classes = 10 if name in (*OURS, *CIFAR) else 1000
    before = sum(p.numel() for p in model.parameters())
    pruner = tp.pruner.BasePruner(
        model,
        inputs if len(inputs) > 1 else inputs[0],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        global_pruning=scope == "global",
        ignored_layers=classifiers(model, classes),
    )
    pruner.step()
    with torch.no_grad():
        model(*inputs)
    after = sum(p.numel() for p in model.parameters())
    return {"params": 1 - after / before}


RUNS = {"surgeon": surgeon_run, "torch-pruning": torch_pruning_run}


def child(tool: str, name: str, scope: str) -> dict[str, Any]:
    """One run in a process of its own: its numbers, or its error."""
    command = [sys.executable, __file__, "--child", tool, scope, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "300 s were not enough"}
    if done.returncode:
        lines = [x for x in done.stderr.strip().splitlines() if x.strip()] or ["no output"]
        return {"failed": lines[-1][:70].replace("|", "/")}
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, scope: str) -> str:
    """One line of the table."""
    ours, peer = child("surgeon", name, scope), child("torch-pruning", name, scope)
    theirs = f"fails: {peer['failed']}" if "failed" in peer else f"runs, -{peer['params']:.0%}"
    if "failed" in ours:
        return f"| {name} | {scope} | fails: {ours['failed']} | | | | | {theirs} |"
    return (
        f"| {name} | {scope} | {ours['way']} | -{ours['params']:.0%} | -{ours['flops']:.0%} "
        f"| {ours['error']:.0e} | {ours['onnx']:.0e} | {theirs} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*TORCHVISION, *CIFAR, *OURS])
    parser.add_argument("--scopes", default="local,global")
    parser.add_argument("--child", nargs=2)
    options = parser.parse_args()
    if options.child:
        import torch

        torch.set_num_threads(1)
        tool, scope = options.child
        print(json.dumps(RUNS[tool](options.networks[0], scope)))
        return
    print(environment(), "\n")
    print(
        "| network | scope | surgery | params | FLOPs | oracle error | ONNX error | torch-pruning |"
    )
    print("|---|---|---|--:|--:|--:|--:|---|")
    for name in options.networks:
        for scope in options.scopes.split(","):
            print(row(name, scope), flush=True)


if __name__ == "__main__":
    main()
