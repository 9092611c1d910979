"""CIFAR-10's two-conv net with its sizes written into forward: a threshold on normalised importance, then five epochs.

    python benchmarks/examples/two_conv.py [--data FOLDER]

`x.view(-1, 64 * 5 * 5)` stands in the forward, so that these channels go in a program alone. 8 epochs on 10,000 training images (JPEGs,
crops and mirroring), then channels go whose importance (first order Taylor on 256 training images with their classes, relative to the largest
of their layer) is below 0.1, and 5 epochs follow. The 10,000 test images are used for the rates alone.

                              channels  parameters  top-1, %   zipped        runs as
    dense                    32-64-120     247,026     59.80  915,772  its own class
    cut                       28-34-64      81,076     55.11  302,531        program
    cut, tuned                28-34-64      81,076     60.67  302,702        program
    cut, compensated          28-34-64      81,076     58.27  302,759        program
    cut, compensated, tuned   28-34-64      81,076     61.11  302,858        program

    The dense network had 8 epochs and is not done learning: five more bring the cut ones above it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks import cifar
from benchmarks.examples.common import params, table, zipped
from models.cifar_resnet import MEAN, STD
from models.small import two_conv

X = torch.zeros(2, 3, 32, 32)


def run(
    pictures: Path = cifar.PICTURES, samples: int = 10_000, epochs: int = 8, tuned: int = 5
) -> list[list[Any]]:
    """Rows: what was done, channels, parameters, top-1 on the test images, zipped bytes, how it runs."""
    import surgeon

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, test = cifar.train_data(pictures), cifar.test_images(pictures)
    how: Any = {"samples": samples, "lr": 1e-3, "mean": MEAN, "std": STD}
    net = surgeon.tune(
        two_conv(), data, options=surgeon.Tuning(epochs, **how), example_inputs=X
    ).model
    rows = [["dense", *_of(net), cifar.top1(net, *test), zipped(net), "its own class"]]
    some = surgeon.open_data(data, X, surgeon.DataOptions(256, mean=MEAN, std=STD))
    asked: Any = {"threshold": 0.1, "criterion": "taylor", "data": some, "measure": False}
    asked["program"] = True  # else they may stay whole, for the class's sake
    for name, recover in (("cut", ()), ("cut, compensated", ("compensate",))):
        done = surgeon.shrink(net, X, recover=recover, **asked)
        after = surgeon.tune(
            done.model, data, options=surgeon.Tuning(tuned, **how), example_inputs=X
        ).model
        for what, slim in ((name, done.model), (f"{name}, tuned", after)):
            rows.append([what, *_of(slim), cifar.top1(slim, *test), zipped(slim), done.way])
    return rows


def _of(net: Any) -> tuple[str, int]:
    sizes = [t.shape[0] for n, t in net.state_dict().items() if n.endswith("weight")]
    return "-".join(map(str, sizes[:-1])), params(net)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=cifar.PICTURES, help="zip, or torchvision's")
    rows = run(parser.parse_args().data)
    print(table(["", "channels", "parameters", "top-1, %", "zipped", "runs as"], rows))


if __name__ == "__main__":
    main()
