"""CIFAR-10 and the networks that are cut on it: pictures as tensors, dense weights, top-1 on the test images.

The pictures are read from a zip in ImageFolder layout (`train/<class>/*.jpg`, `test/<class>/*.jpg`), or, where a folder is
given, through torchvision, which gets CIFAR-10 where it is not there yet. JPEGs are not the original pixels: networks and
numbers of the one are not those of the other.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from models.cifar_resnet import MEAN, STD, resnet

SHARED = Path(__file__).resolve().parent.parent / "../shared"
PICTURES = SHARED / "data" / "cifar10-jpeg.zip"
WEIGHTS = SHARED / "checkpoints"
_BATCH = 250


def test_images(source: Path = PICTURES) -> tuple[Tensor, Tensor]:
    """All 10,000 test images and their classes: f32[10000, 3, 32, 32] normalised, i64[10000]."""
    if source.suffix != ".zip":
        found = _torchvision(source, train=False)
        return _normal(torch.from_numpy(found.data)), torch.tensor(found.targets)
    with zipfile.ZipFile(source) as archive:
        names = _names(archive, "test")
        classes = sorted({name.split("/")[1] for name in names})
        labels = torch.tensor([classes.index(name.split("/")[1]) for name in names])
        return _read(archive, names), labels


def train_images(count: int, seed: int = 0, source: Path = PICTURES) -> Tensor:
    """`count` images of the train split, drawn with the seed, without their classes: f32[count, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    if source.suffix != ".zip":
        pixels = torch.from_numpy(_torchvision(source, train=True).data)
        return _normal(pixels[torch.randperm(len(pixels), generator=generator)[:count]])
    with zipfile.ZipFile(source) as archive:
        names = _names(archive, "train")
        order = torch.randperm(len(names), generator=generator)[:count]
        return _read(archive, [names[i] for i in order.tolist()])


def train_data(source: Path = PICTURES, folder: Path | None = None) -> str:
    """All training images with their classes, as `surgeon.open_data` takes them; torchvision's go into a file of `folder`."""
    return _data("train", source, folder)


def test_data(source: Path = PICTURES, folder: Path | None = None) -> str:
    """All test images with their classes, as `train_data` gives those of training."""
    return _data("test", source, folder)


def _data(split: str, source: Path, folder: Path | None) -> str:
    if source.suffix == ".zip":
        return f"{source}:{split}"
    import numpy as np

    path = (folder or source) / f"cifar10-{split}.npz"
    if not path.exists():
        found = _torchvision(source, train=split == "train")
        np.savez(path, images=found.data, labels=np.array(found.targets))
    return str(path)


def dense(depth: int, weights: Path = WEIGHTS) -> nn.Module:
    """The ResNet of this depth with its weights, in eval mode."""
    model = resnet(depth)
    state = torch.load(weights / f"resnet{depth}_cifar10jpeg.pth", map_location="cpu")
    model.load_state_dict(state["state_dict"])
    return model.eval()


def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of the images whose class comes first."""
    model.eval()
    with torch.no_grad():
        pairs = zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs)
    return 100 * right / len(labels)


def _names(archive: zipfile.ZipFile, split: str) -> list[str]:
    return sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n[-1] != "/")


def _read(archive: zipfile.ZipFile, names: list[str]) -> Tensor:
    import numpy as np
    from PIL import Image

    pixels = [np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names]
    return _normal(torch.from_numpy(np.stack(pixels)))


def _normal(pixels: Tensor) -> Tensor:
    """u8[N, H, W, 3] -> f32[N, 3, H, W], normalised."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return images.contiguous()  # a view(...) in a forward takes no other


def _torchvision(folder: Path, train: bool):
    from torchvision.datasets import CIFAR10

    return CIFAR10(str(folder), train=train, download=True)
