"""How a library's networks want their pictures: mean, std, and how much larger than the crop they are first made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgeon.data.samples import DataOptions
from surgeon.errors import BadInput

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Look:
    """`mean` and `std` of each channel on pixels from 0 to 1; the short side is made `scale` times the crop."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whose: str
    scale: float = 1.0
    interpolation: str = "bilinear"

    def channels(self, count: int) -> Look:
        """For pictures of `count` channels: three are averaged to one. BadInput where that cannot be."""
        if len(self.mean) != len(self.std):
            raise BadInput(
                f"{len(self.mean)} means and {len(self.std)} stds", "give one of each a channel"
            )
        if len(self.mean) == count:
            return self
        if len(self.mean) == 1:
            return replace(self, mean=self.mean * count, std=self.std * count)
        if count == 1:
            mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
            return replace(self, mean=(mean,), std=(std,), whose=f"{self.whose}, averaged to grey")
        raise BadInput(
            f"mean {self.mean} is of {len(self.mean)} channels, the network takes {count}",
            f"give --mean and --std with {count} numbers",
        )

    def __str__(self) -> str:
        mean, std = (",".join(f"{x:.4g}" for x in xs) for xs in (self.mean, self.std))
        return f"mean {mean} and std {std} ({self.whose})"


def look_of(options: DataOptions) -> Look:
    """What the options say, then the library of `options.arch`, then ImageNet's."""
    look = _library(options.arch) or Look(*IMAGENET, "ImageNet's")
    if options.mean is None and options.std is None:
        return look
    given = replace(look, mean=options.mean or look.mean, std=options.std or look.std)
    return replace(
        given, whose="as given" if options.mean and options.std else f"given, and {look.whose}"
    )


def _library(arch: str | None) -> Look | None:
    kind, _, name = (arch or "").partition(":")
    return _LIBRARIES[kind](name) if kind in _LIBRARIES else None


def _torchvision(name: str) -> Look | None:
    models = importlib.import_module("torchvision.models")
    try:
        preset: Any = models.get_model_weights(name).DEFAULT.transforms()
        crop, size = preset.crop_size[0], preset.resize_size[0]
        how = (tuple(preset.mean), tuple(preset.std), f"torchvision's for {name}")
        return Look(*how, size / crop, preset.interpolation.value)
    except (ValueError, AttributeError):  # no published weights, or not of pictures in one crop
        return None


def _timm(name: str) -> Look | None:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        return None
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return None
    how = (tuple(config.mean), tuple(config.std), f"timm's for {name}")
    return Look(*how, 1 / (config.crop_pct or 1.0), config.interpolation or "bilinear")


def _hf(folder: str) -> Look | None:
    try:
        config = json.loads(Path(folder, "preprocessor_config.json").read_text(encoding="utf-8"))
        return Look(tuple(config["image_mean"]), tuple(config["image_std"]), f"{folder}'s own")
    except (OSError, ValueError, KeyError, TypeError):
        return None


_LIBRARIES: dict[str, Callable[[str], Look | None]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hf": _hf,
}
