"""torch-pruning on a CIFAR ResNet: its criteria, cut to given FLOPs, on the same weights with a shortcut that it can cut.

It crashes on a shortcut padded with zeros. That shortcut equals a strided 1x1 convolution with a fixed matrix of zeros and
ones, so `convolved` gives the same function in a form that it follows. Its ratio is found by bisection.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cifar_resnet import BasicBlock, CifarResNet

CRITERIA = ("L2", "Taylor", "LAMP", "FPGM")
SCOPES = ("local", "global")
_STEPS = 9  # of the bisection: ratios to 1/512
_BATCH = 128
Count = Callable[[nn.Module], float]


class ConvolvedBlock(nn.Module):
    """A basic block with its shortcut as a module; parts are shared with the block that it is made from."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.shortcut = _padding(block) if block.pad else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _padding(block: BasicBlock) -> nn.Conv2d:
    """The convolution whose output channel `pad + i` is input channel i at every other pixel, the others zero."""
    inp, planes = block.conv1.in_channels, block.conv1.out_channels
    conv = nn.Conv2d(inp, planes, 1, stride=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[torch.arange(inp) + block.pad, torch.arange(inp)] = 1.0
    return conv


def convolved(model: CifarResNet) -> CifarResNet:
    """A copy that computes the same, with a convolution for every padded shortcut."""
    model = copy.deepcopy(model)
    for layer in (model.layer1, model.layer2, model.layer3):
        for i, block in enumerate(layer):
            layer[i] = ConvolvedBlock(block)
    return model.eval()


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Gradients of the mean cross entropy of the network's own top classes, by parameter: no label is asked for."""
    model = copy.deepcopy(model)
    for batch in images.split(_BATCH):
        out = model(batch)
        loss = F.cross_entropy(out, out.argmax(1), reduction="sum") / len(images)
        loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def cut_to(
    model: nn.Module, how: tuple[str, str], limit: float, images: Tensor, count: Count
) -> nn.Module:
    """The copy cut by (criterion, scope) whose FLOPs share is nearest to the limit, of all ratios of the bisection."""
    criterion, scope = how
    slopes = gradients(model, images) if criterion == "Taylor" else {}
    best, gap = model, abs(1 - limit)
    low, high, full = 0.0, 1.0, count(model)
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        slim = _cut(model, criterion, scope == "global", ratio, slopes)
        share = count(slim) / full
        if abs(share - limit) < gap:
            best, gap = slim, abs(share - limit)
        low, high = (ratio, high) if share > limit else (low, ratio)
    return best


def _cut(
    model: nn.Module, criterion: str, everywhere: bool, ratio: float, slopes: dict[str, Tensor]
) -> nn.Module:
    import torch_pruning as tp

    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.grad = slopes[name].clone() if name in slopes else None
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 3, 32, 32),
        importance=_importance(tp, criterion),
        global_pruning=everywhere,
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule("linear")],
    )
    pruner.step()
    model.zero_grad()
    return model.eval()


def _importance(tp: Any, criterion: str) -> Any:
    kinds = {
        "L2": tp.importance.GroupMagnitudeImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
        "LAMP": tp.importance.LAMPImportance,
        "FPGM": tp.importance.FPGMImportance,
    }
    return kinds[criterion]()


def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose batch norms have the mean and variance of these images."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    model.train()
    with torch.no_grad():
        for batch in images.split(_BATCH):
            model(batch)
    return model.eval()
