"""Tuning after the cut: one recipe for both tools' networks, the same images in the same order, the last epoch's weights.

The recipe is fixed, not searched for: the dense networks were trained on all training images, so that a part of these
held out says little of new images, and test images choose nothing. It is `surgeon tune`'s own (SGD with Nesterov
momentum, warm-up, cosine, averaged weights, crops and mirroring) at the learning rate 0.01, the default of torch-pruning's own CIFAR
benchmark, from labels. For the same reason no epoch is chosen: the last is measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import cifar
from models.cifar_resnet import MEAN, STD

RECIPE = {"lr": 0.01, "batch": 128, "keep": "last", "validation": 0.02}
EXAMPLE = torch.zeros(2, 3, 32, 32)


def tuned(model: nn.Module, epochs: int, state: Path, pictures: Path) -> tuple[nn.Module, float]:
    """The network after `epochs`, and seconds of CPU in this process. A killed run goes on from `state`."""
    from surgeon.tune import Tuning, tune

    options = Tuning(epochs=epochs, state=state, mean=MEAN, std=STD, **RECIPE)  # type: ignore[arg-type]
    data = cifar.train_data(pictures, state.parent)
    start = time.process_time()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # quicker on CPUs
    found = tune(model, data, None, options, example_inputs=EXAMPLE, watch=_said)
    return found.model, time.process_time() - start


def _said(step: Any) -> None:
    if step.step % 50 == 0 or step.step == step.steps:
        where = f"epoch {step.epoch}/{step.epochs}, step {step.step}/{step.steps}"
        print(f"{where}, loss {step.loss:.3f}", flush=True)


class Kept:
    """Cut networks on disk, so that a run that was killed starts from the same weights, and others can look at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, suffix: str) -> Path:
        """Of a row's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / (name.replace(" ", "-") + suffix)

    def save(self, name: str, cut: Any) -> None:
        """What `shrink` gave as slim.pth; any other network as a pickle."""
        if isinstance(cut, nn.Module):
            torch.save(cut, self.path(name, ".pt"))
            return
        import surgeon

        surgeon.save(cut, self.path(name, ".pth"))

    def has(self, name: str) -> bool:
        """Whether that row's network is there."""
        return any(self.path(name, suffix).exists() for suffix in (".pt", ".pth"))

    def load(self, name: str, whole: nn.Module) -> nn.Module:
        """The network of that row, in the class of `whole` where it fits."""
        import surgeon
        from surgeon.errors import SurgeonError

        if self.path(name, ".pt").exists():
            return torch.load(self.path(name, ".pt"), weights_only=False)
        try:
            return surgeon.load(self.path(name, ".pth"), model=whole)
        except SurgeonError:  # its class cannot hold it: the program that the file brings
            return surgeon.load(self.path(name, ".pth"))
