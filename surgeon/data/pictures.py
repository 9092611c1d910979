"""Pictures: one folder, or a folder a class, made what the network takes: its channels, size and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vf

from surgeon.data.look import Look, look_of
from surgeon.data.samples import Batch, Change, DataOptions
from surgeon.data.tree import Folder, Tree, Zip, visible
from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

_MODES = {1: "L", 3: "RGB"}
_TRAINING = ("train", "training")


class Fitted:
    """Pictures [C, H, W] of whole numbers made the example input's: its size and dtype, normalised."""

    def __init__(self, like: Inputs, options: DataOptions) -> None:
        tensors = like.tensors
        if len(tensors) != 1 or tensors[0].dim() != 4 or not tensors[0].is_floating_point():
            shapes = ", ".join(str(list(t.shape)) for t in tensors) or "no tensor"
            raise BadInput(
                f"pictures are one input of [batch, channels, height, width]; this network takes {shapes}",
                "give arrays (.npz, .pt) or file.py:loader",
            )
        self.like = like
        _, self.channels, *size = tensors[0].shape
        self.size, self.dtype = tuple(size), tensors[0].dtype
        self.look = look_of(options).channels(self.channels)
        self.resize, self.normalise = _resize(self.size, self.look), _normalise(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """The size and the numbers."""
        height, width = self.size
        return (f"pictures made {height}x{width}, normalised with {self.look}",)

    @property
    def about(self) -> dict[str, Any]:
        """The numbers, for a plan."""
        return {"mean": list(self.look.mean), "std": list(self.look.std)}

    def __call__(self, picture: Tensor, change: Change | None, index: int) -> Tensor:
        """uint8 [C, H', W'] -> [C, H, W]."""
        picture = self.resize(picture)
        if change is not None:
            picture = change(picture, index)
        return self.normalise(picture)

    def call(self, pictures: Sequence[Tensor]) -> Inputs:
        """The network's call on a batch of what was made."""
        stacked = torch.stack(list(pictures))
        return self.like.map(lambda _: stacked)


def _resize(size: tuple[int, ...], look: Look) -> v2.Transform:
    how = v2.InterpolationMode(look.interpolation) if look.interpolation in _WAYS else _BILINEAR
    if size[0] != size[1]:
        return v2.Resize(list(size), how, antialias=True)
    short = round(size[0] * look.scale)
    return v2.Compose([v2.Resize([short], how, antialias=True), v2.CenterCrop(list(size))])


_BILINEAR = v2.InterpolationMode.BILINEAR
_WAYS = ("nearest", "nearest-exact", "bilinear", "bicubic")  # those that tensors have


def _normalise(fitted: Fitted) -> v2.Transform:
    look = fitted.look
    scaled = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose(
        [scaled, v2.Normalize(list(look.mean), list(look.std)), v2.ToDtype(fitted.dtype)]
    )


class Pictures:
    """`Examples` that are picture files of a folder or a zip."""

    pictures = True

    def __init__(self, tree: Tree, like: Inputs, options: DataOptions) -> None:
        self._fitted = Fitted(like, options)
        if self._fitted.channels not in _MODES:
            raise BadInput(
                f"pictures have 1 or 3 channels, this network takes {self._fitted.channels}",
                "give arrays (.npy, .npz, .pt) or file.py:loader",
            )
        self._tree, self._names, said = _listed(tree)
        self.classes = _classes(self._names)
        self._labels = [self.classes.index(_top(n)) for n in self._names] if self.classes else []
        self.count, self.labelled = len(self._names), bool(self.classes)
        self.notes = (*said, *self._fitted.notes)
        self.about = self._fitted.about

    def batch(self, indices: Sequence[int], change: Change | None = None) -> Batch:
        """See `Examples`. BadInput names a file that is no picture."""
        made = [self._fitted(self._picture(self._names[i]), change, i) for i in indices]
        labels = torch.tensor([self._labels[i] for i in indices]) if self.labelled else None
        return Batch(self._fitted.call(made), labels)

    def _picture(self, name: str) -> Tensor:
        try:
            with Image.open(BytesIO(self._tree.read(name))) as image:
                return vf.pil_to_tensor(image.convert(_MODES[self._fitted.channels]))
        except Exception as error:  # decoders raise whatever they like
            said = (str(error) or type(error).__name__).splitlines()[0].partition(" <_io")[0]
            raise BadInput(
                f"{self._tree}: {name} cannot be read as a picture: {said}",
                "remove or replace that file",
            ) from error


def _listed(tree: Tree) -> tuple[Tree, list[str], tuple[str, ...]]:
    """The tree whose files or class folders hold the pictures, their names, and what to say of the choice."""
    names = [n for n in tree.names() if n.lower().endswith(IMG_EXTENSIONS) and visible(n)]
    if not names:
        raise BadInput(
            f"{tree} holds no pictures",
            f"give a folder of {', '.join(IMG_EXTENSIONS)} files, or of folders of them",
        )
    if min(n.count("/") for n in names) < 2:
        return tree, names, ()
    tops = sorted({_top(n) for n in names})
    training = [top for top in tops if top.lower() in _TRAINING]
    if len(tops) > 1 and len(training) != 1:
        raise BadInput(
            f"{tree} holds folders of folders of pictures: {', '.join(tops[:6])}",
            f"name the one that is meant: {_below(tree, tops[0])}",
        )
    below = _below(tree, training[0] if training else tops[0])
    tree, names, said = _listed(below)
    return tree, names, said or (f"pictures from {tree}",)


def _below(tree: Tree, name: str) -> Tree:
    if isinstance(tree, Folder):
        return Folder(tree.path / name)
    return Zip(tree.path, tree.inside + name)


def _top(name: str) -> str:
    return PurePosixPath(name).parts[0]


def _classes(names: Sequence[str]) -> tuple[str, ...]:
    """The folders, sorted, where every picture is in one: torchvision's ImageFolder."""
    if any("/" not in name for name in names):
        return ()
    return tuple(sorted({_top(name) for name in names}))
