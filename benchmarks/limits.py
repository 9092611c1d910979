"""Limits on latency, asked and reached: `shrink(max_latency=...)` on networks with random weights, timed again afterwards.

    python -m benchmarks.limits --results FILE [NETWORK ...]
    python -m benchmarks.limits --table FILE

ONNX Runtime, one thread, 224x224 pictures, no data, every cut proven. `reached`: what the last round measured. `again`: the
same network and the original exported anew and timed interleaved, after the search.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

from benchmarks.results import read

NETWORKS = (
    "resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "timm:vit_tiny_patch16_224", "swin_t",
)  # fmt: skip
LIMITS = (0.5, 0.7, 0.3)


def build(name: str) -> nn.Module:
    """A network with random weights, in eval mode."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        return timm.create_model(name.removeprefix("timm:"), pretrained=False).eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval()


def row(name: str, limit: float) -> dict[str, Any]:
    """One network at one limit."""
    import surgeon
    from surgeon.errors import OutOfReach

    model, x = build(name), torch.randn(1, 3, 224, 224)
    start = time.perf_counter()
    try:
        done = surgeon.shrink(model, x, max_latency=f"{limit}x")
    except OutOfReach as error:
        return {"failed": error.message}
    spent = time.perf_counter() - start
    share = done.limited.best.reading.shares["latency"]
    return {
        "reached": [share.value, share.low, share.high],
        "again": _again(model, done.model, x),
        "rounds": len(done.limited.rounds),
        "seconds": spent,
        "proven": done.check is not None,
        "params": done.measured.after.params / done.measured.before.params,
        "flops": done.measured.after.flops / done.measured.before.flops,
    }


def _again(model: nn.Module, slim: nn.Module, x: torch.Tensor) -> list[float]:
    from surgeon.measure.bench import made, timed
    from surgeon.measure.target import Target
    from surgeon.trace.inputs import Inputs

    inputs, target = Inputs.of(x), Target()
    with tempfile.TemporaryDirectory() as folder:
        both = {
            n: made(m, inputs, target, Path(folder) / n)
            for n, m in (("before", model), ("after", slim))
        }
        ratio = timed(both, inputs, target).ratios["after"]
    return [ratio.value, ratio.low, ratio.high]


def run(results: Path, only: Sequence[str]) -> None:
    """Every row that is not there yet, one line of JSON each."""
    torch.set_num_threads(1)
    done = {(r["network"], r["tool"]) for r in read(results)}
    for limit in LIMITS:
        for name in only or NETWORKS:
            if (name, f"{limit}x") in done:
                continue
            found = {"network": name, "tool": f"{limit}x", **row(name, limit)}
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| network | asked | reached | timed again | rounds | parameters | FLOPs | seconds |", "|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for r in sorted(rows, key=lambda r: (r["network"].split(":")[-1], -float(r["tool"][:-1]))):
        if "failed" in r:
            lines.append(f"| {r['network']} | {r['tool']} | {r['failed']} | | | | | |")
            continue
        told = [f"{v:.3f}x [{a:.3f}, {b:.3f}]" for v, a, b in (r["reached"], r["again"])]
        lines.append(
            f"| {r['network']} | {r['tool']} | {told[0]} | {told[1]} | {r['rounds']} | {r['params']:.2f}x | "
            f"{r['flops']:.2f}x | {r['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("networks", nargs="*")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.table)))
    elif options.results:
        run(options.results, options.networks)
    else:
        parser.error("give --results or --table")


if __name__ == "__main__":
    main()
