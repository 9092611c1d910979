"""Friedman's regression: an MLP shrunk as a whole, and in its first dense layer only; MSE and zipped size.

    python benchmarks/examples/friedman.py

scikit-learn's make_friedman1, 10,000 x 10, noise of variance 1 (no network can be below 1): 8,000 to train on, 2,000 for
the MSE. Half of the hidden units go, by L2 or chosen and compensated from 256 training inputs without their targets; tuned:
10 more epochs after that, of 60 before.

    cut                     units  parameters    MSE  tuned  zipped
    dense                   64-64       4,929   1.12         19,572
    all, l2                 32-32       1,441  71.09   1.18   6,457
    all, data               48-16       1,329   1.12   1.14   6,084
    first layer only, l2    32-64       2,529  71.23   1.18  10,610
    first layer only, data  32-64       2,529   1.13   1.16  10,629
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.examples.common import fit, params, table, zipped

Data = tuple[Tensor, Tensor]


def friedman(count: int) -> tuple[Data, Data]:
    """Four fifths to train on, the rest to test on: f32[N, 10], f32[N, 1]."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(count, 10, noise=1.0, random_state=0)
    inputs, targets = torch.tensor(x).float(), torch.tensor(y).float()[:, None]
    at = count * 4 // 5
    return (inputs[:at], targets[:at]), (inputs[at:], targets[at:])


def dense() -> nn.Sequential:
    """10 -> 64 -> 64 -> 1."""
    return nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )


@torch.no_grad()
def mse(net: nn.Module, data: Data) -> float:
    """On these data."""
    return float(F.mse_loss(net(data[0]), data[1]))


def run(count: int = 10_000, epochs: int = 60, tuned: int = 10) -> list[list[Any]]:
    """Rows: what was cut, hidden units, parameters, MSE, MSE after tuning, zipped bytes."""
    import surgeon

    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, test = friedman(count)
    net = fit(dense(), train, epochs, loss=F.mse_loss)
    rows = [["dense", _widths(net), params(net), mse(net, test), "", zipped(net)]]
    for name, where in (("all", {}), ("first layer only", {"ignore": ["2"]})):
        for how, data in (("l2", {}), ("data", {"data": train[0][:256].split(64)})):
            done = surgeon.shrink(net, train[0][:2], ratio=0.5, measure=False, **where, **data)
            slim = done.model
            after = fit(copy.deepcopy(slim), train, tuned, loss=F.mse_loss)
            numbers = (params(slim), mse(slim, test), mse(after, test), zipped(slim))
            rows.append([f"{name}, {how}", _widths(slim), *numbers])
    return rows


def _widths(net: Any) -> str:
    return f"{net[0].out_features}-{net[2].out_features}"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(table(["cut", "units", "parameters", "MSE", "tuned", "zipped"], run()))


if __name__ == "__main__":
    main()
