"""What eight bits add to a cut: a published CIFAR-10 ResNet in float32, cut, in eight bits, and both; latency, size, top-1.

    python benchmarks/int8.py --depth 56 --max-flops 0.5x
    python benchmarks/int8.py --wide

All four are timed in random turns on ONNX Runtime, one thread, one picture. The cut and the ranges of int8 see the same 256 training
pictures; top-1 is of all test pictures. --wide is torchvision's ResNet-18 with random weights on noise, 40 % of each group cut to multiples
of 16: latency and size alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import surgeon
from benchmarks import cifar
from surgeon.measure.bench import timed
from surgeon.measure.latency import Comparison

_HEAD = ("network", "latency [ms]", "to float32", "file [kB]", "top-1 [%]")


Networks = dict[str, tuple[Path, float | None]]


def networks(depth: int, limit: str, round_to: int, folder: Path) -> Networks:
    """Each network's file and its top-1 on the test pictures, by name."""
    dense = cifar.dense(depth)
    example = torch.zeros(1, 3, 32, 32)
    seen = surgeon.open_data(cifar.train_data(folder=folder), example, _options(256))
    held = surgeon.open_data(cifar.test_data(folder=folder), example, _options(None))
    slim = surgeon.shrink(
        dense, example, max_flops=limit, round_to=round_to, data=seen, measure=False
    ).model
    found: Networks = {}
    for name, model in (("float32", dense), ("cut", slim)):
        file = surgeon.export_onnx(model, folder / f"{name}.onnx", example).path
        whole = surgeon.quantize(file, folder / f"{name}-int8.onnx", seen, eval_data=held)
        found[name] = (file, whole.seen.before["top1"])
        found[f"{name}, int8"] = (whole.path, whole.seen.after["top1"])
    return found


def wide(folder: Path) -> Networks:
    """The same four of ResNet-18, with no accuracy to tell."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    dense, example = resnet18().eval(), torch.randn(1, 3, 224, 224)
    seen = surgeon.open_data([torch.randn(8, 3, 224, 224)], example)
    slim = surgeon.shrink(dense, example, ratio=0.4, round_to=16, measure=False).model
    found: Networks = {}
    for name, model in (("float32", dense), ("cut", slim)):
        file = surgeon.export_onnx(model, folder / f"{name}.onnx", example).path
        whole = surgeon.quantize(file, folder / f"{name}-int8.onnx", seen)
        found |= {name: (file, None), f"{name}, int8": (whole.path, None)}
    return found


def rows(found: Networks, speed: Comparison) -> list[tuple[str, ...]]:
    """The table's lines."""
    lines = []
    for name, (path, top1) in found.items():
        at, ratio = speed.timings[name], speed.ratios.get(name)
        compared = f"x{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio else "1"
        size = f"{path.stat().st_size / 1e3:,.0f}"
        lines.append(
            (
                name,
                f"{1e3 * at.median_s:.3f}",
                compared,
                size,
                "-" if top1 is None else f"{100 * top1:.2f}",
            )
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--max-flops", default="0.5x")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--wide", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        wanted = (asked.depth, asked.max_flops, asked.round_to, place)
        found = wide(place) if asked.wide else networks(*wanted)
        size = 224 if asked.wide else 32
        example = torch.zeros(1, 3, size, size)
        speed = timed({name: path for name, (path, _) in found.items()}, example)
        for cells in (_HEAD, ("---",) * len(_HEAD), *rows(found, speed)):
            print(f"| {' | '.join(cells)} |")


def _options(samples: int | None) -> surgeon.DataOptions:
    return surgeon.DataOptions(samples=samples, mean=cifar.MEAN, std=cifar.STD)


if __name__ == "__main__":
    main()
