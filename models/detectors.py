"""torchvision's detectors with inputs small enough for tests and tables: two images of sizes of their own.

Weights are random. Sizes and numbers of boxes are options of torchvision's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, tuple[Any, ...]]


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    """Pictures of the given (height, width): f32[3, H, W] in [0, 1), the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets(pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """What a detector learns from, for each picture: two boxes, their classes, masks and key points."""
    found = []
    for picture in pictures:
        height, width = picture.shape[-2:]
        sides = torch.tensor([width, height, width, height])
        boxes = torch.tensor([[0.1, 0.2, 0.5, 0.8], [0.4, 0.1, 0.9, 0.6]]) * sides
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        points = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None].expand(2, 17, 2)
        keypoints = torch.cat([points, torch.ones(2, 17, 1)], 2)
        labels = torch.tensor([1, 1])  # key points know people alone
        found.append({"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints})
    return found


def spread(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Make scores and boxes of a detector with random weights differ as a trained one's do.

    torch starts all of them nearly alike, most below every threshold: nothing is found, or ties are. Biases, which are
    greater than what random layers make of a picture, become zero; then the layers that make scores and boxes are scaled,
    in order of the forward, until the greatest on `inputs` is 6 before a sigmoid or a softmax, and 2 for boxes.
    """
    scaled: set[nn.Module] = set()

    def scale(module: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        if not out.numel():  # a box head that gets no boxes
            return out
        factor = (2.0 if _BOXES.search(paths[module]) else 6.0) / out.abs().max()
        if module not in scaled or factor < 1:
            scaled.add(module)
            module.get_parameter("weight").mul_(factor)
        return module.forward(*args)

    layers = [(p, m) for p, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    paths = {m: path for path, m in layers if _LAST.search(path)}
    hooks = [m.register_forward_hook(scale) for m in paths]
    with torch.no_grad():
        for _, module in layers:
            if module.bias is not None:
                module.bias.zero_()
        model(*inputs)
    for hook in hooks:
        hook.remove()


_BOXES = re.compile(r"bbox|regression")
_LAST = re.compile(
    r"(cls_logits|bbox_pred|cls_score|bbox_reg|bbox_ctrness|mask_fcn_logits|head\.module_list\.\d+(\.1)?)$"
)

# few boxes are enough to see whether a network is cut right; the defaults keep hundreds
_FEW: dict[str, dict[str, Any]] = {
    "rcnn": {
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 40,
        "box_detections_per_img": 10,
    },
    "fcos": {"topk_candidates": 100, "detections_per_img": 20},
    "retinanet": {"topk_candidates": 100, "detections_per_img": 20},
    "ssd": {"topk_candidates": 40, "detections_per_img": 20},
}


def detector(name: str, **options: Any) -> Made:
    """torchvision's `name` in eval mode, and its arguments: a list of two images.

    SSD's two resize to a size of their own, the others to at most 160 here.
    """
    from torchvision.models import get_model

    own = next(few for family, few in _FEW.items() if family in name)
    size = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    options = {"weights": None, "weights_backbone": None, **own, **size, **options}
    model, inputs = get_model(name, **options).eval(), (images((120, 160), (128, 112)),)
    spread(model, inputs)
    return model, inputs


NAMES = (
    "fasterrcnn_resnet50_fpn",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    # families of the same with other backbones and heads
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
)

SMALL: dict[str, Callable[[], Made]] = {name: partial(detector, name) for name in NAMES}
