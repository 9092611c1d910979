"""Networks whose forward depends on the data: other branches, boxes, nothing found; torchvision's detectors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from nets import NETS
from torch import Tensor, nn
from torchvision.ops import nms

import surgeon
from models.detectors import SMALL
from surgeon.errors import CheckFailed
from surgeon.trace.record import record

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """One of two convolutions runs; `far` says how far the sum is from the other one."""

    def __init__(self, far: float = 1e4) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(10, 4)
        self.wide, self.narrow = nn.Conv2d(12, 10, 3, padding=1), nn.Conv2d(12, 10, 1)
        self.far = far

    def more(self, x: Tensor) -> bool:
        return bool(x.sum() > self.far)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.wide(x) if self.more(x) else self.narrow(x)
        return self.head(x.sum((2, 3)))


class BranchesByItem(Branches):
    """The same, compared by Python."""

    def more(self, x: Tensor) -> bool:
        return x.sum().item() > self.far


class Finder(nn.Module):
    """A detector in twenty lines: a score and a box a pixel, a threshold, non-maximum suppression."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.body, self.neck = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.score, self.box = nn.Conv2d(12, 1, 1), nn.Conv2d(12, 4, 1)
        self.refine, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.threshold = threshold

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [self.one(image) for image in images]

    def one(self, image: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.neck(F.relu(self.body(image[None]))))
        scores = self.score(x).sigmoid().flatten()
        corners = self.box(x)[0].flatten(1).T.sigmoid() * 8
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
        found = torch.where(scores > self.threshold)[0]
        found = found[nms(boxes[found], scores[found], 0.5)]
        features = x[0].flatten(1).T[found]
        kinds = self.last(F.relu(self.refine(features)))
        return {"boxes": boxes[found], "scores": scores[found], "kinds": kinds}


def image_list() -> tuple[list[Tensor]]:
    return ([X[0], X[1][:, :6]],)


def spoiled(model: nn.Module, name: str) -> nn.Module:
    """A copy with one tensor changed by a little."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.get_parameter(name).add_(1e-3)
    return copied


@pytest.mark.parametrize("net", [Branches, BranchesByItem])
def test_the_branch_that_did_not_run_is_cut_with_the_other(net: type[Branches]):
    torch.manual_seed(0)
    model = net().eval()
    result = surgeon.shrink(model, X, 0.5, measure=False)
    assert result.way == "module"
    assert result.model.wide.weight.shape == (5, 6, 3, 3)
    assert result.model.narrow.weight.shape == (5, 6, 1, 1)
    result.model.far = -1e4  # the other branch now runs, on the cut tensors
    assert result.model(X).shape == (2, 4)


@pytest.mark.parametrize("net", [Branches, BranchesByItem])
@pytest.mark.parametrize("branch", ["wide.weight", "narrow.bias"])
def test_a_fault_in_either_branch_is_found(net: type[Branches], branch: str):
    torch.manual_seed(0)
    model = net().eval()
    result = surgeon.shrink(model, X, 0.5, measure=False)
    with pytest.raises(CheckFailed):
        surgeon.check(model, spoiled(result.model, branch), result.plan, X)


@pytest.mark.parametrize("threshold", [0.5, 0.999])
def test_a_fault_is_found_whether_boxes_are_or_not(threshold: float):
    torch.manual_seed(0)
    model = Finder(threshold).eval()
    result = surgeon.shrink(model, image_list(), 0.5, measure=False)
    assert result.model.body.weight.shape[0] == 8
    assert result.model.refine.weight.shape == (4, 6)
    for name in ("neck.weight", "score.weight", "refine.bias", "last.weight"):
        with pytest.raises(CheckFailed):
            surgeon.check(model, spoiled(result.model, name), result.plan, image_list())


class NormedFinder(Finder):
    """Finds what its first feature shows, and normalises what it found: torch runs other ops where that is nothing."""

    def __init__(self) -> None:
        super().__init__(0.9)
        self.refine = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8))
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.weight[:, 0] = 100.0


def test_a_slim_network_that_finds_nothing_follows_all_the_same():
    torch.manual_seed(0)
    model = NormedFinder().eval()
    remove = {"neck": [0, 1], "refine.0": [2, 3]}
    result = surgeon.remove(model, image_list(), remove, measure=False)
    assert result.way == "module"
    assert [len(found["boxes"]) > 0 for found in model(*image_list())] == [True, True]
    assert [len(found["boxes"]) for found in result.model(*image_list())] == [0, 0]
    assert result.model.refine[1].num_features == 6
    for name in ("refine.0.weight", "refine.1.bias"):
        with pytest.raises(CheckFailed):
            surgeon.check(model, spoiled(result.model, name), result.plan, image_list())


def test_what_is_decided_by_value_stays():
    torch.manual_seed(0)
    model = Finder(0.5).eval()
    why = {g.name: g.why_not for g in surgeon.trace(model, image_list()).groups}
    assert why["box"] is not None
    assert why["last"] is not None


@pytest.mark.parametrize(
    "name", ["routed_examples", "as_often_as_needed", "bright_pixels", "best_tokens"]
)
def test_numbers_that_say_what_runs(name: str):
    case = NETS[name]
    result = surgeon.shrink(case.build(), case.inputs(), 0.5, measure=False)
    assert result.way == "module"
    assert {g.name for g in result.plan.groups} <= set(case.cuts)
    assert all(g.kept == g.size // 2 for g in result.plan.groups)


def test_costs_are_of_one_path():
    graph = record(Branches().eval(), (X,))
    lines = [node.module for node in graph.run]
    assert lines.count("stem") == 1
    assert [node.module for node in graph.nodes].count("stem") == 2


def test_ties_are_no_difference():
    class Ties(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.o(F.relu(self.a(x)))
            order = y.sum(1).mul(0).add(x.sum(1) * 0).argsort()  # all equal, but for rounding
            return y[order]

    torch.manual_seed(0)
    result = surgeon.shrink(Ties().eval(), torch.randn(50, 6), 0.5, measure=False)
    assert result.check is not None


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_torchvision_detectors(name: str):
    torch.manual_seed(0)
    model, inputs = SMALL[name]()
    before = sum(p.numel() for p in model.parameters())
    result = surgeon.shrink(model, inputs, 0.5, measure=False)
    assert result.way == "module"
    assert sum(p.numel() for p in result.model.parameters()) < 0.5 * before
    assert result.check is not None
    assert result.check.error < 1e-9
    assert [set(found) for found in result.model(*inputs)] == [{"boxes", "labels", "scores"}] * 2


def test_a_dict_that_nobody_may_change_is_left_alone():
    """diffusers' configs are such; a run whose numbers Python reads begins with what the modules held."""

    class Frozen(dict[str, int]):
        def _no(self, *_args: object, **_named: object) -> None:
            raise TypeError("frozen")

        update = pop = _no  # type: ignore[assignment]

    net = Branches()
    net.settings = Frozen({"wide": 1})
    result = surgeon.shrink(net, X, 0.5, measure=False)
    assert result.way == "module" and net.settings == {"wide": 1} == result.model.settings
