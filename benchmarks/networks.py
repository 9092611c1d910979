"""The networks that benchmarks run on, by name: issue list of torchvision, and those in models/."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TORCHVISION = (
    "alexnet vgg11_bn resnet18 resnet50 wide_resnet50_2 resnext50_32x4d densenet121 googlenet inception_v3 "
    "squeezenet1_0 mobilenet_v2 mobilenet_v3_small mnasnet0_5 efficientnet_b0 shufflenet_v2_x0_5 "
    "regnet_x_400mf regnet_y_400mf convnext_tiny"
).split()
OURS = ("mlp", "two_conv", "unet", "conv1d_net", "two_in_two_out")
CIFAR = ("resnet20", "resnet56")


def build(name: str, batch: int = 1) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """An eval-mode network with seeded random weights, and example inputs of this batch."""
    torch.manual_seed(0)
    if name in OURS:
        from models.small import NETS

        factory, shapes = NETS[name]
        return factory().eval(), tuple(torch.randn(batch, *s[1:]) for s in shapes)
    if name in CIFAR:
        return _cifar(name), (torch.randn(batch, 3, 32, 32),)
    import torchvision

    options: dict[str, Any] = (
        {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **options)
    size = 299 if name == "inception_v3" else 224
    return model.eval(), (torch.randn(batch, 3, size, size),)


def _cifar(name: str) -> nn.Module:
    """The published checkpoint where it is at hand, else random weights."""
    from models import cifar_resnet

    model = getattr(cifar_resnet, name)()
    published = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}[name]
    path = ROOT.parent / "shared" / "checkpoints" / published
    if path.exists():
        state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    return model.eval()


def classifiers(model: nn.Module, classes: int = 1000) -> list[nn.Module]:
    """The layers torch-pruning's examples ignore: those that make the classes."""
    return [
        m
        for m in model.modules()
        if getattr(m, "out_features", getattr(m, "out_channels", 0)) == classes
    ]


def environment() -> str:
    """One line that says on what the numbers were taken."""
    import os
    import platform
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    return (
        f"torch {torch.__version__}, torch-pruning {version('torch-pruning')}, Python "
        f"{platform.python_version()}, {cpu}, {os.cpu_count()} cores, one thread"
    )
