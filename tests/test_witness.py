"""A file that torch's older exporter wrote is compared inside as well, and holds the whole forward or is not written."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from torchvision.ops import nms

from models.detectors import SMALL, spread
from models.recurrent import SMALL as RECURRENT
from surgeon import export, witness
from surgeon.errors import BadInput, CheckFailed
from surgeon.export import export_onnx, relative_error
from surgeon.measure.runtime import OrtRunner
from surgeon.strip import keep_outputs
from surgeon.witness import Point, choose, follow

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Found(nn.Module):
    """Boxes above a threshold, a kind for each: nothing at all where the threshold is 2."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.score, self.box, self.kind = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1), nn.Linear(8, 3)
        self.threshold = threshold

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        x = F.relu(self.norm(self.body(x)))
        scores = self.score(x).sigmoid().flatten(1)
        corners = (self.box(x).sigmoid() * 8).flatten(2).transpose(1, 2)
        found = []
        for one, score, box in zip(x, scores, corners, strict=True):
            box = torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], 1)
            best = torch.where(score > self.threshold)[0]
            best = best[nms(box[best], score[best], 0.5)]
            kinds = self.kind(one.flatten(1).T[best])
            found.append({"boxes": box[best], "scores": score[best], "kinds": kinds})
        return found


def found(threshold: float) -> nn.Module:
    torch.manual_seed(0)
    return Found(threshold).eval()


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch):
    """The exporter writes another number into the weight of the layer at a path."""

    def spoil(path: str) -> None:
        strip = export._stripped

        def wrong(draft: Path) -> None:
            proto = onnx.load(str(draft))
            held = next(x for x in proto.graph.initializer if x.name.endswith(f"{path}.weight"))
            array = numpy_helper.to_array(held).copy()
            array.flat[0] += 0.5
            held.CopyFrom(numpy_helper.from_array(array, held.name))
            onnx.save(proto, str(draft))
            strip(draft)

        monkeypatch.setattr(export, "_stripped", wrong)

    return spoil


def test_where_nothing_is_found_the_layers_are_compared(tmp_path: Path):
    file = export_onnx(found(2.0), tmp_path / "net.onnx", X)
    assert file.inside >= 2
    assert any(f"{file.inside} results inside are equal" in note for note in file.notes)
    outputs = onnx.load(str(file.path)).graph.output
    assert len(outputs) == 6  # the model's own alone


@pytest.mark.parametrize("layer", ["score", "box"])
def test_a_fault_shows_though_nothing_is_found(layer: str, spoilt, tmp_path: Path):
    spoilt(layer)
    with pytest.raises(CheckFailed, match=f"{layer}'s result"):
        export_onnx(found(2.0), tmp_path / "net.onnx", X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", ["score", "box", "kind"])
def test_a_fault_shows_in_what_is_found(layer: str, spoilt, tmp_path: Path):
    model = found(0.5)
    assert all(len(one["boxes"]) for one in model(X))
    spoilt(layer)
    with pytest.raises(CheckFailed):
        export_onnx(model, tmp_path / "net.onnx", X)


def test_what_is_found_is_compared_as_it_is(tmp_path: Path):
    file = export_onnx(found(0.5), tmp_path / "net.onnx", X)
    assert file.inside == 0
    assert not any("empty" in note for note in file.notes)


class Best(nn.Module):
    """The box with the best score."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.box = nn.Linear(4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores, boxes = self.score(x), self.box(x)
        return boxes[scores.flatten().argmax()]


def same(got: np.ndarray, want: np.ndarray) -> bool:
    return relative_error(got, want) < 1e-3


def test_the_model_decides_on_what_the_file_computed():
    torch.manual_seed(0)
    model, x = Best(), torch.randn(1, 4).repeat(5, 1) + torch.arange(5)[:, None] * 1e-9
    with torch.no_grad():
        model.score.weight.zero_()  # five ties
        run = lambda: model(x)  # noqa: E731
        assert choose(model, run) == [Point("score", 0), Point("box", 0)]
        given = {Point("score", 0): np.zeros((5, 1), np.float32) + model.score.bias.item()}
        given[Point("score", 0)][3] += 1e-6  # rounding
        given[Point("box", 0)] = np.arange(10, dtype=np.float32).reshape(5, 2)
        out, met, left = follow(model, run, given, same)
    assert out.tolist() == [6.0, 7.0]
    assert [m.point.path for m in met] == ["score", "box"]
    assert not left
    assert not same(met[1].given, met[1].own)  # and it is told that the boxes are others


class Later(nn.Module):
    """The best two rows, in order of their scores, go through two more layers."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.next, self.last = nn.Linear(4, 1), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        best = x[self.score(x).flatten().topk(2).indices]
        return self.last(self.next(best).relu()).relu()


def test_after_a_choice_another_order_is_no_fault_and_other_rows_tell_nothing():
    torch.manual_seed(0)
    model, x = Later(), torch.randn(6, 4)
    score, next_, last = (Point(name, 0) for name in ("score", "next", "last"))

    def given(rows: Tensor, spoilt: float = 0.0) -> dict[Point, np.ndarray]:
        after = model.next(rows)
        end = model.last(after.relu()) + spoilt
        return {score: model.score(x).numpy(), next_: after.numpy(), last: end.numpy()}

    def went(results: dict[Point, np.ndarray]) -> tuple[list[str], list[str]]:
        _, met, left = follow(model, lambda: model(x), results, same)
        return [m.point.path for m in met], [point.path for point in left]

    with torch.no_grad():
        best = x[model.score(x).flatten().topk(2).indices]
        assert went(given(best)) == (["score", "next", "last"], [])
        assert went(given(best.flip(0))) == (["score", "next", "last"], [])
        others = best + torch.tensor([[0.0], [1.0]])
        assert went(given(others)) == (["score", "last"], ["next"])
        assert went(given(others, spoilt=0.1)) == (["score"], ["next", "last"])


def test_rows_that_hardly_differ_are_compared_as_they_lie():
    torch.manual_seed(0)
    model = Later()
    x = torch.randn(1, 4).repeat(6, 1) + 1e-7 * torch.randn(6, 4)
    with torch.no_grad():
        best = x[model.score(x).flatten().topk(2).indices]
        after = model.next(best)
        given = {Point("next", 0): (after + 1e-6 * torch.randn_like(after)).numpy()}
        _, met, left = follow(model, lambda: model(x), given, lambda a, b: np.allclose(a, b))
    assert not left
    assert np.allclose(met[0].given, met[0].own)
    assert np.array_equal(met[0].given, given[Point("next", 0)])


class Empty(Later):
    """Gives nothing, after a choice."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        out = super().forward(x)
        return [{"found": out[out[:, 0] > 1e6]}]


@pytest.mark.parametrize("layer", ["score", "next", "last"])
def test_what_was_not_compared_is_said(layer: str, spoilt, tmp_path: Path):
    torch.manual_seed(0)
    model, x = Empty().eval(), torch.randn(6, 4)
    fine = export_onnx(model, tmp_path / "fine.onnx", x, dynamic_batch=False)
    assert (fine.inside, "not compared" in str(fine.notes)) == (3, False)
    spoilt(layer)
    if layer == "score":
        with pytest.raises(CheckFailed):
            export_onnx(model, tmp_path / "net.onnx", x, dynamic_batch=False)
    else:  # rounding may choose other rows, and so nobody can tell
        file = export_onnx(model, tmp_path / "net.onnx", x, dynamic_batch=False)
        assert "1 behind a choice" in str(file.notes)


class Chain(nn.Module):
    """conv -> norm, then a sum written into the norm's result; a relu module in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.after, self.relu, self.last = (
            nn.Conv2d(4, 4, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x += 1
        return self.last(self.relu(self.after(x)) * 2) + 1


def test_results_are_chosen_that_stay_as_they_are(monkeypatch: pytest.MonkeyPatch):
    model = Chain().eval()
    with torch.no_grad():
        assert [p.path for p in choose(model, lambda: model(X))] == ["relu", "last"]
        monkeypatch.setattr(witness, "_BYTES", 2 * 2 * 64 * 4)  # the last one's
        assert [p.path for p in choose(model, lambda: model(X))] == ["last"]


def test_a_layer_that_is_called_twice_is_two_results():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"shared": layer})
    with torch.no_grad():
        chosen = choose(model, lambda: layer(layer(torch.ones(1, 4)).relu()).relu())
    assert chosen == [Point("shared", 0), Point("shared", 1)]


@pytest.mark.parametrize("name", ["packed_classifier", "packed_tagger"])
def test_packed_sequences_of_other_lengths(name: str, tmp_path: Path, capfd):
    torch.manual_seed(0)
    model, inputs = RECURRENT[name]()
    path = export_onnx(model.eval(), tmp_path / "net.onnx", inputs).path
    assert capfd.readouterr() == ("", "")  # compiled code has something to say here
    lengths = torch.tensor([7, 2, 1])
    assert not torch.equal(lengths, inputs[1])
    (got,) = OrtRunner(path, [inputs[0], lengths]).outputs()
    with torch.no_grad():
        want = model(inputs[0], lengths)
    assert relative_error(got, want.numpy()) < 1e-5


class Sided(nn.Module):
    """Reads a number into Python, and a list of tensors, which torch.export does not open."""

    def __init__(self, read) -> None:
        super().__init__()
        self.body, self.read = nn.Linear(4, 6), read

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        y = self.body(x)
        return [{"y": y * 2 if self.read(y) else y}]


def hides_its_warnings(y: Tensor) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(y.sum() > 0)


def reads_elsewhere_when_traced(y: Tensor) -> bool:
    if torch.jit.is_tracing():
        return bool(y.sum() > 0)
    return bool(y.sum() > 0)


def finds_some(y: Tensor) -> bool:
    """The other side fails on these inputs, and is right on others."""
    if (y > 1e6).any():
        return bool(y[y > 1e6].max() > 0)
    return False


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y.sum() > 0,
        lambda y: y.sum().item() > 0,
        lambda y: int(y.sum()) > 100,
        lambda y: y.tolist()[0][0] > 0,
        lambda y: y.detach().numpy().sum() > 0,
        lambda y: torch.equal(y, y + 1),
        lambda y: torch.allclose(y, y + 1),
        hides_its_warnings,
        reads_elsewhere_when_traced,
        finds_some,
    ],
    ids=["bool", "item", "int", "list", "numpy", "equal", "close", "hidden", "elsewhere", "some"],
)
def test_one_side_of_an_if_is_no_file(read, tmp_path: Path):
    model = Sided(read).eval()
    with pytest.raises(BadInput, match="cannot export this model") as caught:
        export_onnx(model, tmp_path / "net.onnx", torch.randn(3, 4))
    assert "test_witness.py" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


class Counts(nn.Module):
    """A mean over what a mask lets pass, counted in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor, mask: Tensor) -> list[dict[str, Tensor]]:
        count, passed = int(mask.sum()), self.body(x)[mask]
        assert len(passed) == count
        return [{"mean": passed.sum(0) / count}]


def test_a_count_in_python_is_no_size(tmp_path: Path):
    inputs = (torch.randn(5, 4), torch.tensor([True, False, True, True, False]))
    with pytest.raises(BadInput, match="cannot export"):
        export_onnx(Counts().eval(), tmp_path / "net.onnx", inputs)


class Resets(nn.Module):
    """Changes itself on a branch that these inputs do not take."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        y = self.body(x)
        if y.abs().max() > 1e6:
            self.scale.zero_()
        return [{"y": y * self.scale}]


def test_the_model_stays_as_it_is(tmp_path: Path):
    model, x = Resets().eval(), torch.randn(3, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    read = {name: torch.Tensor.__dict__.get(name) for name in ("__bool__", "item", "__len__")}
    with pytest.raises(BadInput):
        export_onnx(model, tmp_path / "net.onnx", x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name: torch.Tensor.__dict__.get(name) for name in read} == read


def test_outputs_are_taken_out_with_what_only_they_need():
    value = onnx.helper.make_tensor_value_info
    x, y, z = (value(n, onnx.TensorProto.FLOAT, [2]) for n in "xyz")
    weights = [numpy_helper.from_array(np.ones(2, np.float32), n) for n in ("a", "b")]
    nodes = [
        onnx.helper.make_node("Add", ["x", "a"], ["y"]),
        onnx.helper.make_node("Mul", ["y", "b"], ["t"]),
        onnx.helper.make_node("Relu", ["t"], ["z"]),
    ]
    proto = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y, z], weights))
    keep_outputs(proto, 1)
    assert [o.name for o in proto.graph.output] == ["y"]
    assert [n.op_type for n in proto.graph.node] == ["Add"]
    assert [i.name for i in proto.graph.initializer] == ["a"]


@pytest.mark.parametrize("name", ["keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_detectors_that_find_something(name: str, tmp_path: Path):
    torch.manual_seed(0)
    model, inputs = SMALL[name]()
    with torch.no_grad():
        assert sum(len(one["boxes"]) for one in model(*inputs)) > 0
    file = export_onnx(model, tmp_path / "net.onnx", inputs)
    assert file.worst_error < 1e-3
    assert not any("empty" in note for note in file.notes)


def test_spread_scores_are_no_ties():
    torch.manual_seed(0)
    model, inputs = SMALL["ssdlite320_mobilenet_v3_large"]()
    spread(model, inputs)
    with torch.no_grad():
        scores = model(*inputs)[0]["scores"]
    assert len(scores) > 1
    assert scores.diff().abs().min() > 1e-6
