"""Train models/digits.py on one core, in seconds, and write models/digits_resnet.pth.

Run it as `python models/train_digits.py`. A group lasso on kernels and batch-norm scales (sparse
training, as in network slimming, arXiv 1708.06519) leaves channels that pruning can take for free.
"""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from digits import DigitsResNet, accuracy, data, digits_resnet
from torch import Tensor, nn

EPOCHS = 40
SPARSITY = 6e-3
BATCH = 64
PATH = Path(__file__).with_name("digits_resnet.pth")


def shift(x: Tensor) -> Tensor:
    """Every image moved by up to one pixel either way: the only augmentation."""
    padded = F.pad(x, (1, 1, 1, 1))
    dy, dx = torch.randint(0, 3, (2,)).tolist()
    return padded[:, :, dy : dy + 8, dx : dx + 8]


def sparsity(model: nn.Module) -> Tensor:
    """Sum of the norms of all kernels by input channel, and of all batch-norm scales."""
    norms = [
        p.transpose(0, 1).flatten(1).norm(dim=1).sum() for p in model.parameters() if p.dim() > 1
    ]
    scales = [m.weight.abs().sum() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return torch.stack(norms + scales).sum()


def train() -> DigitsResNet:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y, *_ = data()
    model = digits_resnet().train()
    steps = EPOCHS * (len(y) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(y))[: len(y) // BATCH * BATCH]
        for index in order.split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(shift(x[index])), y[index], label_smoothing=0.05)
            (loss + SPARSITY * sparsity(model)).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    start = time.perf_counter()
    model = train()
    torch.save({"state_dict": model.state_dict(), "arch": "models/digits.py:digits_resnet"}, PATH)
    seconds, size = time.perf_counter() - start, PATH.stat().st_size / 1000
    print(f"{PATH.name}: {accuracy(model):.2f} % held out, {size:.0f} kB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
