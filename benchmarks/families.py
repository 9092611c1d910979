"""Networks by name, FAMILY:MEMBER, each with example inputs: what the coverage run goes through."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.zoo_names import DETECTORS, TIMM, TORCHVISION

Case = tuple[nn.Module, Any]
# families that this project writes down itself: file with SMALL = {name: () -> (model, inputs)}
WRITTEN = {
    "hf": "models.transformers",
    "recurrent": "models.recurrent",
    "yolo": "models.yolo",
    "detectors": "models.detectors",
}
# what makes a detector's classes and boxes; where boxes are pooled, neck and heads whole, as
# torch-pruning's own script for torchvision has it
_POOLED = "rpn.head.cls_logits rpn.head.bbox_pred backbone.fpn roi_heads".split()
_DENSE = """
head.classification_head.cls_logits head.regression_head.bbox_reg head.regression_head.bbox_ctrness
head.classification_head.module_list head.regression_head.module_list
""".split()
_VIDEO = {name: (3, 16, 112, 112) for name in ("mc3_18", "r3d_18", "r2plus1d_18")} | {
    name: (3, 16, 224, 224) for name in ("mvit_v1_b", "mvit_v2_s", "s3d", "swin3d_t")
}


def names(families: list[str] | None = None) -> list[str]:
    """Every network, or those of some families, as 'family:member'."""
    found = {"torchvision": TORCHVISION, "timm": TIMM}
    found |= {family: sorted(_small(family)) for family in WRITTEN}
    return [
        f"{f}:{name}"
        for f, members in found.items()
        for name in members
        if not families or f in families
    ]


def build(name: str, batch: int = 2) -> Case:
    """An eval-mode network with seeded random weights, and example inputs: detectors get one image, and those that
    this project writes down a batch of their own."""
    torch.manual_seed(0)
    family, _, member = name.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "torchvision":
            model, inputs = _torchvision(member, batch)
        elif family == "timm":
            model, inputs = _timm(member, batch)
        else:
            model, inputs = _small(family)[member]()
            inputs = (inputs[0][:1],) if family == "detectors" else inputs
    return model.eval(), inputs


def lesson(name: str, inputs: Any) -> Any:
    """What the network takes in train mode: detectors learn from boxes, in each picture and its mirror image (one picture
    is too few for batch-norm over a single position); the others take the same inputs."""
    if not detects(name):
        return inputs
    from models.detectors import targets

    pictures = [*inputs[0], *(picture.flip(-1) for picture in inputs[0])]
    return pictures, targets(pictures)


def detects(name: str) -> bool:
    family, _, member = name.partition(":")
    return family == "detectors" or (family == "torchvision" and member in DETECTORS)


def classifier(name: str, model: nn.Module, inputs: Any) -> list[nn.Module]:
    """The layers that make the outputs, as those who use the library name them."""
    if name.startswith("timm:"):
        found = model.get_classifier()
        return list(found) if isinstance(found, (list, tuple)) else [found]
    if detects(name):
        places = dict(model.named_modules())
        wanted = _POOLED if "roi_heads" in places else _DENSE
        return [places[path] for path in wanted if path in places]
    if not name.startswith("torchvision:"):
        return _last_layers(model, inputs)
    classes = {1000, 400, 21}
    return [
        m
        for m in model.modules()
        if getattr(m, "out_features", getattr(m, "out_channels", 0)) in classes
    ]


def _last_layers(model: nn.Module, inputs: Any) -> list[nn.Module]:
    """Layers whose own output is an output of the network, or a view of it."""
    made: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, _args: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            made.append((module, out.untyped_storage().data_ptr()))

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    with torch.no_grad():
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    for hook in hooks:
        hook.remove()
    ends = {t.untyped_storage().data_ptr() for t in tree_leaves(outputs) if isinstance(t, Tensor)}
    return list(dict.fromkeys(module for module, place in made if place in ends))


def _torchvision(name: str, batch: int) -> Case:
    import torchvision

    if name in DETECTORS:
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        return model, ([torch.rand(3, 320, 320)],)
    options: dict[str, Any] = {"weights": None}
    if ("resnet50" in name and name.startswith(("fcn", "deeplab"))) or name.startswith("lraspp"):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    model = torchvision.models.get_model(name, **options)
    if name == "raft_small":
        return model, (torch.randn(batch, 3, 128, 128), torch.randn(batch, 3, 128, 128))
    side = {"inception_v3": 299}.get(name, 224)
    return model, (torch.randn(batch, *_VIDEO.get(name, (3, side, side))),)


def _timm(name: str, batch: int) -> Case:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, (torch.randn(batch, *model.pretrained_cfg["input_size"]),)


def _small(family: str) -> dict[str, Callable[[], Case]]:
    """What a file of models/ offers; nothing where its library is not installed."""
    try:
        return importlib.import_module(WRITTEN[family]).SMALL
    except ModuleNotFoundError:
        return {}
