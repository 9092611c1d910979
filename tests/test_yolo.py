"""The YOLO pattern: split, append, cat; a PAN neck; boxes from bins. Ours, and Ultralytics' own package unmodified."""

import copy
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from models.yolo import SMALL

torch.set_num_threads(1)
IMAGE = draw(1, 3, 64, 64)


def made(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return SMALL[name]()


@cache
def shrunk(name: str, ratio: float, scope: str) -> tuple[nn.Module, surgeon.Result]:
    """The model and what comes of it, which tests only look at."""
    model, inputs = made(name)
    return model, surgeon.shrink(model, inputs, ratio, scope=scope, measure=False)


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("name", SMALL)
def test_it_is_cut_and_proven(name: str, ratio: float, scope: str) -> None:
    model, result = shrunk(name, ratio, scope)
    assert result.check is not None and result.check.dtype == "float64"
    size = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in result.model.parameters()) < size * (1.1 - ratio)
    if scope == "local":
        assert type(result.model) is type(model)


@pytest.mark.parametrize("name", SMALL)
def test_what_the_boxes_are_made_of_stays(name: str) -> None:
    """64 bins and 7 classes leave the network; the bins' own weights are no channels."""
    model, result = shrunk(name, 0.5, "local")
    slim = result.model
    for conv in (*slim.detect.boxes, *slim.detect.scores):
        assert conv[-1].out_channels in (64, 7)
    assert torch.equal(slim.detect.mean.conv.weight.flatten(), torch.arange(16.0))
    assert torch.equal(slim.detect.anchors, model.detect.anchors)


@pytest.mark.parametrize("name", SMALL)
def test_every_stage_and_head_is_narrower(name: str) -> None:
    model, result = shrunk(name, 0.5, "local")
    slim = result.model
    whole = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    cut = {n: m.out_channels for n, m in slim.named_modules() if isinstance(m, nn.Conv2d)}
    kept = {n for n in whole if cut[n] == whole[n]}
    last = {f"detect.{kind}.{i}.2" for kind in ("boxes", "scores") for i in range(3)}
    assert kept == {"detect.mean.conv", *last}
    assert all(cut[n] == whole[n] / 2 for n in set(whole) - kept)


@pytest.mark.parametrize("name", SMALL)
def test_it_trains_after_the_cut(name: str) -> None:
    _, inputs = made(name)
    slim = copy.deepcopy(shrunk(name, 0.5, "local")[1].model).train()
    before = copy.deepcopy(slim.state_dict())
    maps = slim(torch.cat([*inputs, *inputs]) * 2)
    sum(m.square().mean() for m in maps).backward()
    torch.optim.SGD([p for p in slim.parameters() if p.requires_grad], 0.1).step()
    moved = {n for n, t in slim.state_dict().items() if not torch.equal(t, before[n])}
    assert {n for n, p in slim.named_parameters() if p.requires_grad} <= moved
    assert {n for n in before if n.endswith("running_mean")} <= moved


class CachesItsGrid(nn.Module):
    """A detector's way with anchors: made where the map has another shape, kept in an attribute. Its
    strides are a plain tensor, whose numbers Python reads; a written size makes it a program."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(8, 5, 1)
        self.stride = torch.tensor([2.0])
        self.anchors = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.anchors.shape != x.shape[2:]:
            self.anchors = torch.full(x.shape[2:], self.stride[0])  # type: ignore[arg-type]
        return self.head(x[:, :8] + x[:, 8:]) * self.anchors


def test_what_a_forward_keeps_in_attributes_stays_out_of_the_users_model() -> None:
    torch.manual_seed(0)
    model = CachesItsGrid()
    traced = surgeon.trace(model, IMAGE)
    assert traced.graph.on_meta
    result = surgeon.shrink(model, IMAGE, 0.5, measure=False)
    assert result.way == "program"
    assert model.anchors.numel() == 0
    assert model(IMAGE).shape == result.model(IMAGE).shape


# ---- Ultralytics' own package, where it is installed --------------------------------------------


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ultralytics.nn.tasks, which writes its settings elsewhere and asks no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_OFFLINE", "1")
        patch.setenv("YOLO_VERBOSE", "0")
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("yolo")))
        pytest.importorskip("ultralytics")
        import ultralytics.nn.tasks

        yield ultralytics.nn.tasks


def theirs(tasks: Any, name: str) -> nn.Module:
    """One of their networks, of random weights, from the yaml in their package."""
    kinds: dict[str, Callable[..., nn.Module]] = {
        "seg": tasks.SegmentationModel, "pose": tasks.PoseModel,
        "cls": tasks.ClassificationModel, "obb": tasks.OBBModel,
    }  # fmt: skip
    torch.manual_seed(0)
    kind = kinds.get(name.rpartition("-")[2], tasks.DetectionModel)
    return kind(f"{name}.yaml", verbose=False).eval()


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["yolov8n", "yolov5n", "yolov3-tiny", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov8n-obb"])  # fmt: skip
def test_ultralytics_networks_come_back_as_their_own_class(tasks: Any, name: str) -> None:
    model = theirs(tasks, name)
    result = surgeon.shrink(model, IMAGE, 0.5, measure=False)
    assert type(result.model) is type(model) and result.way == "module"
    assert result.check is not None and result.check.dtype == "float64"
    assert size(result.model) < 0.4 * size(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["yolo11n", "yolov10n", "yolo12n"])
def test_ultralytics_networks_with_attention_are_cut_and_proven(tasks: Any, name: str) -> None:
    model = theirs(tasks, name)
    result = surgeon.shrink(model, IMAGE, 0.5, measure=False)
    assert result.check is not None and result.check.dtype == "float64"
    assert size(result.model) < 0.4 * size(model)


@pytest.mark.filterwarnings("ignore")
def test_ultralytics_trains_its_own_loss_on_a_slim_network(tasks: Any) -> None:
    from ultralytics.cfg import get_cfg

    slim: Any = surgeon.shrink(theirs(tasks, "yolov8n"), IMAGE, 0.5, measure=False).model
    slim.args = get_cfg()
    before = copy.deepcopy(slim.state_dict())
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]])
    batch = {"img": torch.rand(2, 3, 64, 64), "batch_idx": torch.tensor([0.0, 1.0]),
             "cls": torch.tensor([[1.0], [2.0]]), "bboxes": boxes}  # fmt: skip
    slim.train()
    loss = slim(batch)[0].sum()
    loss.backward()
    torch.optim.SGD([p for p in slim.parameters() if p.requires_grad], 0.01).step()
    assert math.isfinite(float(loss.detach()))
    state = slim.state_dict()
    moved = {n for n, p in slim.named_parameters() if not torch.equal(state[n], before[n])}
    boxes_of = ("model.22.cv2.", "model.22.dfl.")  # a level without a box learns no boxes
    assert {n for n, _ in slim.named_parameters() if not n.startswith(boxes_of)} <= moved
    assert slim.eval().fuse(verbose=False)(IMAGE)[0].shape[:2] == (1, 84)
