"""An ONNX file is there, checked and clean, or it is not there at all."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import surgeon
from surgeon import export
from surgeon.errors import BadInput, CheckFailed
from surgeon.export import export_onnx, relative_error
from surgeon.measure.runtime import OrtRunner
from surgeon.report.files import write_models


class TwoByTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, x, y):
        both = self.left(x) + self.right(y)
        return both, both.relu()


class Named(TwoByTwo):
    def forward(self, x, y):
        return {"both": self.left(x) + self.right(y), "left": [self.left(x)]}


@dataclass
class Result:
    both: torch.Tensor
    count: int = 2


class Structured(TwoByTwo):
    def forward(self, x, y):
        return Result(self.left(x) + self.right(y))


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        return self.linear(x).view(2, 2, 3)


class CountsItsBatch(FixedBatch):
    def forward(self, x):
        return self.linear(x) * len(x)


class Random(FixedBatch):
    def forward(self, x):
        return self.linear(x) + torch.rand_like(x[:, :1])


PAIR = (torch.randn(1, 4), torch.randn(1, 6))


def only(path):
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_resnet_is_exported_checked_and_clean(tmp_path, capfd):
    resnet = torchvision.models.resnet  # half as deep as ResNet-18
    model, x = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]), torch.randn(1, 3, 64, 64)
    path = tmp_path / "slim.onnx"
    file = export_onnx(model, path, x)
    assert capfd.readouterr() == ("", "")
    assert file.path == path
    assert only(path)
    assert file.bytes == path.stat().st_size
    assert file.dynamic_batch
    assert file.outputs_equal
    assert 0 < file.worst_error < 1e-5
    assert file.notes == ()
    assert model.training
    proto = onnx.load(str(path))
    assert (file.opset, file.ir_version) == (proto.opset_import[0].version, proto.ir_version)
    assert {node.op_type for node in proto.graph.node}.isdisjoint({"BatchNormalization"})
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"torchvision" not in path.read_bytes()  # no stack traces, no local paths
    assert b"pkg.torch" not in path.read_bytes()
    five = OrtRunner(path, torch.randn(5, 3, 64, 64)).outputs()
    assert five[0].shape == (5, 1000)


@pytest.mark.parametrize(
    ("build", "outputs"), [(TwoByTwo, 2), (Named, 2), (Structured, 1)], ids=lambda x: str(x)
)
def test_inputs_and_outputs_of_any_structure(build, outputs, tmp_path):
    model = build().eval()
    file = export_onnx(model, tmp_path / "net.onnx", PAIR)
    assert file.dynamic_batch
    given = (torch.randn(3, 4), torch.randn(3, 6))
    got = OrtRunner(file.path, given).outputs()
    assert len(got) == outputs
    want = model.left(given[0]) + model.right(given[1])
    np.testing.assert_allclose(got[0], want.detach().numpy(), atol=1e-5)


def test_keyword_inputs_in_any_order(tmp_path):
    file = export_onnx(TwoByTwo(), tmp_path / "net.onnx", {"y": PAIR[1], "x": PAIR[0]})
    assert OrtRunner(file.path, {"x": PAIR[0], "y": PAIR[1]}).outputs()[0].shape == (1, 8)


def test_one_tensor_given_twice(tmp_path):
    x = torch.randn(1, 4)
    file = export_onnx(nn.Bilinear(4, 4, 3), tmp_path / "net.onnx", (x, x))
    assert file.dynamic_batch


def test_an_assertion_on_tensors_is_left_out(tmp_path):
    class Asserts(FixedBatch):
        def forward(self, x):
            torch._check_tensor_all(x.isfinite())
            return self.linear(x)

    file = export_onnx(Asserts().eval(), tmp_path / "asserts.onnx", torch.randn(3, 4))
    assert file.worst_error < 1e-4


def test_data_is_read_as_what_is_detached(tmp_path):
    class Reads(FixedBatch):
        def forward(self, x):
            return torch.cat([self.linear(x).data, x], 1)

    file = export_onnx(Reads(), tmp_path / "net.onnx", torch.randn(2, 4))
    assert file.dynamic_batch
    assert file.notes == ()


@pytest.mark.parametrize("build", [FixedBatch, CountsItsBatch])
def test_a_batch_that_cannot_be_open_is_fixed_and_said(build, tmp_path):
    file = export_onnx(build(), tmp_path / "net.onnx", torch.randn(2, 4))
    assert not file.dynamic_batch
    assert file.notes == (
        "batch fixed at 2: the forward makes a plain number of it, as len(x) does",
    )
    assert only(file.path)


def test_a_fixed_batch_on_request(tmp_path):
    file = export_onnx(
        nn.Linear(4, 3), tmp_path / "net.onnx", torch.randn(2, 4), dynamic_batch=False
    )
    assert not file.dynamic_batch
    assert file.notes == ()
    dims = onnx.load(str(file.path)).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, 4]


def test_weights_go_beside_the_graph_above_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "EXTERNAL_DATA_BYTES", 1000)
    file = export_onnx(nn.Linear(64, 64), tmp_path / "net.onnx", torch.randn(1, 64))
    assert sorted(x.name for x in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert file.bytes > 64 * 64 * 4 > file.path.stat().st_size
    runner = OrtRunner(file.path, torch.randn(1, 64))
    assert runner.file_bytes == file.bytes


def test_a_constant_output_is_said(tmp_path):
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    file = export_onnx(model, tmp_path / "net.onnx", torch.randn(1, 4))
    assert file.notes == (
        "output is constant here: that it is equal says little about the weights",
    )


def test_a_difference_is_named_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with pytest.raises(
        CheckFailed, match=r"output of the ONNX file differs from PyTorch by .* of its"
    ):
        export_onnx(Random(), path, torch.randn(2, 4))
    assert path.read_bytes() == b"old"
    assert only(path)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_the_old_file_and_the_mode(stop, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    model = nn.Linear(4, 3)

    def interrupted(proto):
        raise stop

    monkeypatch.setattr(export, "strip", interrupted)
    with pytest.raises((KeyboardInterrupt, BadInput)) as caught:
        export_onnx(model, path, torch.randn(1, 4))
    assert caught.type is KeyboardInterrupt or "No space left on device" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert only(path)
    assert model.training


class Refuses(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_bad_input_is_refused(tmp_path):
    path, x = tmp_path / "net.onnx", torch.randn(2, 4)
    with pytest.raises(BadInput, match="PyTorch cannot export this model to ONNX: Could not guard"):
        export_onnx(Refuses(), path, x)
    for batch, one in ((2, False), (1, True)):
        said = rf"forward fails: .*mat1 and mat2.*; with inputs \[{batch}, 4\]"
        with pytest.raises(BadInput, match=said) as error:
            export_onnx(nn.Sequential(nn.Linear(3, 3)), path, x[:batch])
        assert ("a limit on latency" in str(error.value.hint)) == one
    with pytest.raises(BadInput, match=r"cannot write into .*: No such file"):
        export_onnx(nn.Linear(4, 3), tmp_path / "none" / "net.onnx", x)
    with pytest.raises(BadInput, match="is a folder"):
        export_onnx(nn.Linear(4, 3), tmp_path, x)
    with pytest.raises(BadInput, match=r"cannot load net\.onnx: .*NOT_IMPLEMENTED"):
        export_onnx(nn.Conv1d(4, 2, 1).double(), path, torch.randn(1, 4, 9).double())
    assert list(tmp_path.iterdir()) == []


def error(got, want, dtype="float32"):
    return relative_error(np.array(got, dtype), np.array(want, dtype))


def test_errors_are_relative_to_the_range():
    assert error([1.0, 3.1], [1.0, 3.0]) == pytest.approx(0.05, rel=1e-5)
    assert error([1e-9, 3.1e-9], [1e-9, 3e-9]) == pytest.approx(0.05, rel=1e-5)
    assert error([2e-9], [1e-9]) == pytest.approx(10)
    assert error([5.00001], [5.0]) < 1e-4 < error([5.001], [5.0])
    assert error([0, 0], [0, 0]) == 0
    assert error([0, 1e-30], [0, 0]) == float("inf")
    assert error([[1]], [1]) == float("inf")
    assert error([], []) == 0


def test_what_is_not_finite_must_be_in_the_same_place():
    nan, inf = float("nan"), float("inf")
    assert error([nan, 1, 2], [nan, 1, 2]) == 0
    assert error([nan, 1, 2], [0, 1, 2]) == inf
    assert error([1, 1, 2], [nan, 1, 2]) == inf
    assert error([-inf, 1], [inf, 1]) == inf


def test_integers_count_what_differs():
    assert error([1, 2, 3, 4], [1, 2, 3, 5], "int64") == 0.25
    assert error([True], [True], "bool") == 0


class Windows(nn.Module):
    """Attention within windows, five dimensions, or on three, with every kind of mask."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.qkv, self.out = nn.Linear(12, 48), nn.Linear(16, 5)

    def forward(self, x):
        n, length, _ = x.shape
        options = {"is_causal": True} if self.kind == "causal" else {}
        if self.kind == "flat":
            return self.out(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))
        half = length // 2
        q, k, v = self.qkv(x).reshape(n, 2, half, 3, 4, 4).permute(3, 0, 1, 4, 2, 5).unbind(0)
        if self.kind == "mask for all":
            options["attn_mask"] = torch.arange(4.0 * half * half).reshape(4, half, half).sin()
        if self.kind == "mask for each":
            options["attn_mask"] = torch.arange(2.0 * half * half).reshape(1, 2, 1, half, half)
        y = F.scaled_dot_product_attention(q, k, v, **options)
        return self.out(y.transpose(2, 3).reshape(n, length, 16))


@pytest.mark.parametrize("kind", ["flat", "plain", "causal", "mask for all", "mask for each"])
def test_attention_of_any_rank(tmp_path, kind):
    torch.manual_seed(0)
    model = Windows(kind).eval()
    file = export_onnx(model, tmp_path / "net.onnx", torch.randn(2, 10, 12))
    assert file.dynamic_batch
    assert file.worst_error < 1e-5


class Bent(nn.Module):
    """Exports as something else than it computes."""

    def __init__(self, bent: bool) -> None:
        super().__init__()
        self.conv, self.bent = nn.Conv2d(3, 8, 3), bent
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.conv(x).relu())
        return y + 1 if self.bent and torch.compiler.is_exporting() else y


@pytest.mark.parametrize("also", [True, False])
def test_a_file_that_is_wrong_for_the_original_too_is_a_note(also: bool, tmp_path: Path):
    result = surgeon.shrink(Bent(True).eval(), torch.randn(2, 3, 8, 8), 0.5, measure=False)
    write = partial(write_models, result, tmp_path, None, Bent(also).eval(), lambda _: None)
    if also:
        assert any("it is the export, not the cut" in note for note in write())
        assert (tmp_path / "slim.pth").exists()
        assert not (tmp_path / "slim.onnx").exists()
    else:
        with pytest.raises(CheckFailed):
            write()


class Projected(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, proj_size=3, **options)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out, (h, c) = self.lstm(x)
        return out, h, c


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}],
    ids=["one", "both ways", "no bias"],
)
def test_an_lstm_with_projections(options: dict[str, bool], tmp_path: Path):
    torch.manual_seed(0)
    file = export_onnx(Projected(**options).eval(), tmp_path / "net.onnx", torch.randn(3, 2, 6))
    assert file.worst_error < 1e-5
