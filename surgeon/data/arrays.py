"""Arrays in files: .npy, .npz and .pt, nothing of them run. Whole numbers of a pixel's are pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surgeon.data.samples import Batch, Change, DataOptions
from surgeon.data.shape import Pair, paired
from surgeon.errors import BadInput
from surgeon.trace.inputs import Inputs

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
_LABELS = ("labels", "label", "targets", "y")


class Arrays:
    """`Examples` that are rows of tensors held in memory."""

    classes: tuple[str, ...] = ()

    def __init__(self, pair: Pair, like: Inputs, options: DataOptions, name: str) -> None:
        self._inputs, self._labels = pair
        self._like, self._fitted = like, None
        tensors = self._inputs.tensors
        sizes = {t.shape[0] for t in tensors} | (
            set() if self._labels is None else {len(self._labels)}
        )
        if len(sizes) != 1 or 0 in sizes:
            said = ", ".join(str(list(t.shape)) for t in tensors)
            rows = "" if self._labels is None else f", {len(self._labels)} labels"
            raise BadInput(f"{name}: arrays of {said}{rows} are not as many examples of each")
        self.count, self.labelled = sizes.pop(), self._labels is not None
        self.notes: tuple[str, ...] = ()
        self.about: dict[str, Any] = {}
        self.pictures = _pixels(self._inputs, like)
        if self.pictures:
            from surgeon.data.pictures import Fitted  # torchvision takes long to import

            self._fitted = Fitted(like, options)
            self._inputs = Inputs((_channels_first(tensors[0], self._fitted.channels, name),))
            self.notes, self.about = self._fitted.notes, self._fitted.about
        else:
            _same_shape(self._inputs, like, name)
            self._scale(options)

    def _scale(self, options: DataOptions) -> None:
        """Numbers are used as they are, unless a mean and a std are given for them."""
        self.notes = ("numbers used as they are in the file",)
        if options.mean is None and options.std is None:
            return
        if len(self._like.tensors) != 1 or self._like.tensors[0].dim() < 2:
            raise BadInput("--mean and --std are for one input with channels", "leave them out")
        values = self._inputs.tensors[0].float()
        shape = (1, -1, *[1] * (values.dim() - 2))
        try:
            mean, std = torch.tensor(options.mean or (0.0,)), torch.tensor(options.std or (1.0,))
            values = (values - mean.view(shape)) / std.view(shape)
        except RuntimeError:
            raise BadInput(
                f"mean {options.mean} and std {options.std} do not fit {values.shape[1]} channels"
            ) from None
        self._inputs = self._inputs.map(lambda _: values)
        self.notes = (f"numbers normalised with mean {options.mean}, std {options.std} (as given)",)

    def batch(self, indices: Sequence[int], change: Change | None = None) -> Batch:
        """See `Examples`."""
        rows = torch.as_tensor(list(indices))
        labels = None if self._labels is None else self._labels[rows]
        if self._fitted is not None:
            whole = self._inputs.tensors[0]
            made = [self._fitted(whole[i], change, i) for i in indices]
            return Batch(self._fitted.call(made), labels)
        kinds = iter(self._like.tensors)
        return Batch(self._inputs.map(lambda t: t[rows].to(next(kinds).dtype)), labels)


def open_arrays(path: Path, like: Inputs, options: DataOptions) -> Arrays:
    """The examples of a file. BadInput for what is damaged, holds objects, or does not fit the network."""
    return Arrays(_pair(_read(path), like, str(path)), like, options, str(path))


def _read(path: Path) -> Any:
    try:
        if path.suffix in (".pt", ".pth"):
            return torch.load(path, map_location="cpu", weights_only=True)
        found = np.load(path, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{path} cannot be read as arrays: {said}",
            "it must hold tensors or plain arrays only; file.py:loader reads anything else",
        ) from error


def _pair(found: Any, like: Inputs, name: str) -> Pair:
    if isinstance(found, Mapping):
        return _named({str(k): _tensor(v, f"{name}: {k}") for k, v in found.items()}, like, name)
    if isinstance(found, list | tuple):
        return paired([_tensor(v, name) for v in found], like, name)
    return Inputs((_tensor(found, name),)), None


def _named(found: dict[str, Tensor], like: Inputs, name: str) -> Pair:
    """Labels are what is called so and is no input; the rest are the inputs, by name or, for positions, in order."""
    labels = next((n for n in _LABELS if n in found and n not in like.kwargs), None)
    rest = {n: t for n, t in found.items() if n != labels}
    target = None if labels is None else found[labels]
    if like.kwargs and set(rest) >= set(like.kwargs) and not like.args:
        return Inputs((), {n: rest[n] for n in like.kwargs}), target
    if len(rest) != len(like.tensors) or like.kwargs:
        raise BadInput(
            f"{name} holds {', '.join(found) or 'nothing'}; the network takes {', '.join(like.names)}",
            f"name the arrays as the network's inputs, and the labels {_LABELS[0]!r}",
        )
    return Inputs(tuple(rest.values())), target


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        value = torch.from_numpy(np.ascontiguousarray(native))
    if not isinstance(value, Tensor) or not value.dim():
        raise BadInput(
            f"{name} is no array of numbers with one row an example: {type(value).__name__}"
        )
    return value


def _pixels(inputs: Inputs, like: Inputs) -> bool:
    tensors, wanted = inputs.tensors, like.tensors
    return (
        len(tensors) == len(wanted) == 1
        and tensors[0].dtype is torch.uint8
        and tensors[0].dim() in (3, 4)
        and wanted[0].is_floating_point()
        and wanted[0].dim() == 4
    )


def _channels_first(pixels: Tensor, channels: int, name: str) -> Tensor:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] -> [N, C, H, W]."""
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    first, last = pixels.shape[1], pixels.shape[3]
    if last in (1, 3) and first not in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] == channels:
        return pixels
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    raise BadInput(
        f"{name}: pictures of {list(pixels.shape)[1:]}, the network takes {channels} channels"
    )


def _same_shape(inputs: Inputs, like: Inputs, name: str) -> None:
    for what, have, want in zip(like.names, inputs.tensors, like.tensors, strict=True):
        number = have.is_floating_point() or not want.is_floating_point()
        if have.shape[1:] != want.shape[1:] or not number:
            kind = f"{list(have.shape[1:])} of {str(have.dtype)[6:]}"
            raise BadInput(
                f"{name}: examples of {kind}; the network takes {list(want.shape[1:])} "
                f"of {str(want.dtype)[6:]} as input {what}",
                "bring the arrays to that shape, or say --input",
            )
