"""What training pictures go through: torchvision's transforms, drawn anew for each example and epoch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from surgeon.data.samples import Change


def augmentation(name: str, size: tuple[int, int], seed: int, epoch: int) -> Change | None:
    """The change of a picture [C, H, W] for this epoch; None for none.

    standard: moved by up to an eighth of its size, and mirrored. trivial: after that one strong change
    (TrivialAugment, arXiv 2103.10158). What is drawn depends on seed, epoch and example alone: not on
    which process reads it, nor on what was read before.
    """
    if name == "none":
        return None
    steps: list[v2.Transform] = [
        v2.RandomCrop(list(size), padding=[size[1] // 8, size[0] // 8], padding_mode="reflect"),
        v2.RandomHorizontalFlip(),
    ]
    if name == "trivial":
        steps.append(v2.TrivialAugmentWide())
    drawn = v2.Compose(steps)

    def change(picture: Tensor, index: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                hash((seed, epoch, index)) % 2**63
            )  # of integers: the same everywhere
            return drawn(picture)

    return change
