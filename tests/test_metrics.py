"""Every number of a report against its formula, computed directly."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import draw
from torch import nn
from torch.nn.utils import prune

import surgeon
from surgeon.cli.main import run
from surgeon.metrics.accuracy import Accuracy, answer_of, are_classes
from surgeon.metrics.compression import compression, reduction
from surgeon.metrics.reconstruction import OutputError
from surgeon.metrics.sparsity import sparsity, zeros
from surgeon.metrics.speed import latency_change, theoretical_speedup
from surgeon.metrics.zipped import zipped_bytes


def test_output_error_in_batches_is_that_of_the_whole() -> None:
    want, got = draw(50, 7, seed=1).double() * 3 + 1000, draw(50, 7, seed=2).double() + 1000
    error = OutputError()
    for at in range(0, 50, 16):
        error.add([want[at : at + 16]], [got[at : at + 16]])
    spread = (want - want.mean(0)).square().mean()
    assert error.value == pytest.approx(float((want - got).square().mean() / spread), rel=1e-6)


def test_output_error_is_the_mean_over_outputs_and_nought_for_equal_ones() -> None:
    a, b = draw(8, 3), draw(8, 2, 2, seed=1)
    error = OutputError()
    error.add([a, b], [a, b.mean(0).expand_as(b)])
    assert error.value == pytest.approx(0.5, rel=1e-5)  # 0 and 1: a constant is as bad as can be


def test_one_example_is_compared_with_its_own_size() -> None:
    error = OutputError()
    error.add([torch.full((1, 4), 2.0)], [torch.full((1, 4), 1.0)])
    assert error.value == pytest.approx(0.25)


def test_outputs_of_several_sizes() -> None:
    parts = [(draw(4, 5), draw(4, 5, seed=1)), (draw(4, 9, seed=2), draw(4, 9, seed=3))]
    error = OutputError()
    for want, got in parts:
        error.add([want], [got])
    apart = sum(float((a - b).double().square().sum()) for a, b in parts)
    spread = sum(float((a - a.mean(0)).double().square().sum()) for a, _ in parts)
    assert error.value == pytest.approx(apart / spread, rel=1e-5)


def test_accuracy_is_counted_over_batches_and_positions() -> None:
    answer, labels = draw(40, 9, 3), torch.randint(9, (40, 3), generator=torch.manual_seed(0))
    found = Accuracy()
    for at in range(0, 40, 16):
        found.add(answer[at : at + 16], labels[at : at + 16])
    right = [float((answer.argmax(1) == labels).float().mean())]
    right.append(float((answer.argsort(1)[:, -5:] == labels[:, None]).any(1).float().mean()))
    assert [found.top(1), found.top(5)] == pytest.approx(right)
    assert set(found.as_dict()) == {"top1", "top5"}


def test_what_labels_are() -> None:
    answer = draw(4, 3)
    assert are_classes(answer, torch.tensor([0, 1, 2, 2]))
    for wrong in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1]), torch.rand(4), None):
        assert not are_classes(answer, wrong)
    few = Accuracy()
    few.add(answer, torch.tensor([0, 1, 2, 2]))
    assert set(few.as_dict()) == {"top1"}  # of three classes, five are all
    assert answer_of({"hidden": torch.ones(2, dtype=torch.int64), "out": answer}) is answer


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
    ).eval()


def test_ratios_by_their_formulas() -> None:
    assert compression(100, 25) == 4 and reduction(100, 25) == 0.75
    assert theoretical_speedup(30, 20) == 1.5 and latency_change(0.8) == pytest.approx(-0.2)
    assert compression(0, 0) == 1 and reduction(0, 5) == 0


def test_zeros_are_those_of_masked_weights_too() -> None:
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 50)
    with torch.no_grad():
        model[2].bias.zero_()  # type: ignore[union-attr]
    total = sum(p.numel() for p in model.parameters())
    assert zeros(model) == 50 + 16
    assert sparsity(66, total) == pytest.approx(66 / total)


def test_zipped_size_is_that_of_a_zip() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[:16] = 0  # type: ignore[index, union-attr]
    raw = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w", raw)
        [entry] = file.infolist()
    assert packed.getbuffer().nbytes > entry.compress_size
    assert abs(zipped_bytes(model) - entry.compress_size) <= 16  # zlib's own frame
    assert zipped_bytes(model) < 0.9 * len(raw)


NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)]
    return nn.Sequential(*layers).eval()
"""


def test_a_report_has_all_of_them_on_examples_that_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    x, y = draw(300, 6), torch.randint(4, (300,), generator=torch.manual_seed(1))
    np.save("train.npy", x[:100].numpy())
    np.savez("test.npz", x=x[100:].numpy(), labels=y[100:].numpy())
    asked = ["shrink", "nets.py:net", "--input", "1,6", "--ratio", "0.5", "--no-onnx", "-o", "out"]
    assert run([*asked, "--data", "train.npy", "--eval-data", "test.npz"]) == 0
    found = json.loads(Path("out/report.json").read_text())["metrics"]
    slim, model = surgeon.load("out/slim.pth"), mlp()
    with torch.no_grad():
        want, got = model(x[100:]).double(), slim(x[100:]).double()
    spread = (want - want.mean(0)).square().mean()
    assert found["reconstruction_error"] == pytest.approx(
        float((want - got).square().mean() / spread), rel=1e-4
    )
    tops = [float((t.argmax(1) == y[100:]).double().mean()) for t in (want, got)]
    rates = found["accuracy"]
    assert [rates["before"]["top1"], rates["after"]["top1"]] == pytest.approx(tops)
    assert rates["drop"]["top1"] == pytest.approx(tops[0] - tops[1])
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, slim)]
    assert found["compression_ratio"] == pytest.approx(counts[0] / counts[1])
    assert found["parameter_reduction"] == pytest.approx(1 - counts[1] / counts[0])
    assert found["zipped_bytes"] == {"before": zipped_bytes(model), "after": zipped_bytes(slim)}
    assert found["examples"] == {"examples": 200, "held_out": True, "which": "held out"}
    said = capsys.readouterr().out
    assert "on 200 examples held out: top-1" in said and "weights, zipped" in said
    assert "theoretical speed-up" in Path("out/report.html").read_text()
    assert run([*asked, "--data", "test.npz", "-q"]) == 0  # nothing is held out
    found = json.loads(Path("out/report.json").read_text())["metrics"]
    assert found["examples"]["held_out"] is False and found["examples"]["examples"] == 128
    replay = ["apply", "out/plan.json", "nets.py:net", "--eval-data", "test.npz", "--no-onnx"]
    assert run([*replay, "-q", "-o", "again"]) == 0
    found = json.loads(Path("again/report.json").read_text())["metrics"]
    assert found["examples"]["held_out"] is None
