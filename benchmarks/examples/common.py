"""What the examples share: a plain training loop, a network's zipped size, digits, and tables."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    net: nn.Module, data: tuple[Tensor, Tensor], epochs: int, lr: float = 1e-3, loss: Loss = F.cross_entropy
) -> nn.Module:  # fmt: skip
    """Train in place with Adam and batches of 64, and give it back in eval mode."""
    x, y = data
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(64):
            optimizer.zero_grad()
            loss(net(x[part]), y[part]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Percent of the classes that are right."""
    x, y = data
    parts = zip(x.split(250), y.split(250), strict=True)
    return 100 * sum(int((net(a).argmax(1) == b).sum()) for a, b in parts) / len(y)


def params(net: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in net.parameters())


def zipped(net: nn.Module) -> int:
    """Bytes of the weights' file, zipped."""
    packed = BytesIO()
    torch.save(net.state_dict(), packed)
    return len(zlib.compress(packed.getvalue(), 9))


def mlp() -> nn.Sequential:
    """LeNet-300-100: f32[N, 784] -> f32[N, 10]."""
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's 8x8 digits made 28x28 (bilinear), flat: 1,347 to train on and 450 to test on, f32[N, 784]."""
    from models.digits import data

    images, labels, others, truth = data()
    train, test = (F.interpolate(x, size=28, mode="bilinear").flatten(1) for x in (images, others))
    return (train, labels), (test, truth)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns under their names, numbers to the right."""
    cells = [[f"{c:.2f}" if isinstance(c, float) else f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]  # fmt: skip
    widths = [max(len(r[i]) for r in [list(head), *cells]) for i in range(len(head))]
    lines = []
    for row in (list(head), *cells):
        rest = (cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)
