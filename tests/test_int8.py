"""Eight bits: the file is right, small and as accurate on a trained network; targets differ; what cannot be meant is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.cli.main import run
from surgeon.errors import BadInput
from surgeon.int8 import kinds
from surgeon.int8.quantize import Int8File
from surgeon.int8.source import Source
from surgeon.measure.runtime import OrtRunner

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from models.digits import data  # noqa: E402  from the folder of the example network

torch.set_num_threads(1)
MODEL = [str(ROOT / "models/digits_resnet.pth"), "--arch", f"{ROOT}/models/digits.py:digits_resnet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits.onnx and fixed.onnx (batches of 5) in float32; train.npz and test.npz with labels."""
    folder = tmp_path_factory.mktemp("digits")
    x, y, held_x, held_y = data()
    np.savez(folder / "train.npz", x=x[:203].numpy(), labels=y[:203].numpy())
    np.savez(folder / "test.npz", x=held_x.numpy(), labels=held_y.numpy())
    model = surgeon.open_model(MODEL[0], MODEL[2], "1,1,8,8").model
    surgeon.export_onnx(model, folder / "digits.onnx", x[:1])
    surgeon.export_onnx(model, folder / "fixed.onnx", x[:5], dynamic_batch=False)
    return folder


def quantized(place: Path, onnx_name: str, out: Path, **options: object) -> Int8File:
    like = Source(place / onnx_name).like
    given, held = (
        surgeon.open_data(place / n, like, surgeon.DataOptions(samples=None))
        for n in ("train.npz", "test.npz")
    )
    return surgeon.quantize(place / onnx_name, out, given, eval_data=held, **options)  # type: ignore[arg-type]


def weight_types(path: Path) -> set[int]:
    graph = onnx.load(str(path)).graph
    return {
        w.data_type for w in graph.initializer if w.name.endswith("_quantized") and len(w.dims) == 4
    }


def test_eight_bits_are_small_and_as_accurate(place: Path, tmp_path: Path) -> None:
    found = quantized(place, "digits.onnx", tmp_path / "int8.onnx", target="x86-vnni")
    assert found.bytes == (tmp_path / "int8.onnx").stat().st_size < 0.6 * found.float_bytes
    assert found.layers == found.heavy > 5
    assert found.calibrated_on == 203
    assert found.seen.held_out is True
    assert found.seen.before["top1"] > 0.98
    assert found.seen.after["top1"] > found.seen.before["top1"] - 0.02
    assert 0 < found.seen.error < 0.05
    assert 0 < found.worst_error < 0.5
    assert weight_types(found.path) == {TensorProto.INT8}


def test_what_is_told_is_what_the_files_compute(place: Path, tmp_path: Path) -> None:
    found = quantized(place, "digits.onnx", tmp_path / "int8.onnx")
    held = np.load(place / "test.npz")
    want, got = (OrtRunner(p, held["x"]).outputs()[0] for p in (place / "digits.onnx", found.path))
    assert found.seen.after["top1"] == pytest.approx((got.argmax(1) == held["labels"]).mean())
    assert found.seen.before["top1"] == pytest.approx((want.argmax(1) == held["labels"]).mean())
    assert found.worst_error == pytest.approx(np.abs(got - want).max() / np.ptp(want), rel=1e-3)
    apart = ((got - want) ** 2).sum() / ((want - want.mean(0)) ** 2).sum()
    assert found.seen.error == pytest.approx(apart, rel=1e-3)
    assert found.seen.examples == len(want)


def test_each_target_has_its_kind_of_numbers(place: Path, tmp_path: Path) -> None:
    def made(target: str) -> onnx.ModelProto:
        return onnx.load(
            str(quantized(place, "digits.onnx", tmp_path / target, target=target).path)
        )

    def largest(proto: onnx.ModelProto) -> int:
        arrays = [numpy_helper.to_array(w) for w in proto.graph.initializer if len(w.dims) == 4]
        return max(int(np.abs(a.astype(int)).max()) for a in arrays)

    def zero_points(proto: onnx.ModelProto) -> set[int]:
        points = {n.input[2] for n in proto.graph.node if n.op_type == "QuantizeLinear"}
        return {w.data_type for w in proto.graph.initializer if w.name in points}

    vnni, plain, arm = made("x86-vnni"), made("x86"), made("arm")
    assert (largest(vnni), largest(plain), largest(arm)) == (127, 64, 127)
    assert (zero_points(vnni), zero_points(plain)) == ({TensorProto.UINT8}, {TensorProto.UINT8})
    assert zero_points(arm) == {TensorProto.INT8}


def test_this_machine_is_read_from_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(machine: str, flags: str) -> str:
        monkeypatch.setattr(kinds.platform, "machine", lambda: machine)
        monkeypatch.setattr(kinds, "cpuinfo", lambda *_: flags)
        return kinds.here()

    assert here("x86_64", "avx2 avx512f avx512_vnni") == "x86-vnni"
    assert here("AMD64", "avx2 avx_vnni") == "x86-vnni"
    assert here("x86_64", "avx2 avx512f") == "x86"
    assert here("aarch64", "asimd") == here("arm64", "") == "arm"


def test_a_fixed_batch_is_fed_in_its_own_size(place: Path, tmp_path: Path) -> None:
    found = quantized(place, "fixed.onnx", tmp_path / "int8.onnx")
    # batches of 32 give 6 calls of 5 and leave two each; of the last eleven one is left
    assert found.calibrated_on == 190
    assert any("13 examples were left out" in note for note in found.notes)


def test_without_labels_only_outputs_are_told(place: Path, tmp_path: Path) -> None:
    like = Source(place / "digits.onnx").like
    examples = np.load(place / "train.npz")["x"][:40]
    found = surgeon.quantize(place / "digits.onnx", tmp_path / "q.onnx", surgeon.open_data([torch.from_numpy(examples)], like))  # fmt: skip
    assert (found.seen.before, found.seen.after, found.seen.held_out) == ({}, {}, False)
    assert found.seen.error > 0


def test_the_command_line_writes_it_and_says_how_good_it_is(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ["--int8", "--data", str(place / "train.npz"), "--eval-data", str(place / "test.npz")]
    assert run(["export", *MODEL, "--input", "1,1,8,8", *told, "--target", "arm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "digits_resnet-int8.onnx"
    assert found["target"] == "arm"
    assert found["seen"]["accuracy"]["after"]["top1"] > 0.95
    assert found["calibrated_on"] == 128
    assert run(["export", str(place / "digits.onnx"), *told, "-o", "q.onnx"]) == 0
    out = capsys.readouterr().out
    assert "q.onnx" in out and "top1" in out and "held-out" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits_resnet-int8.onnx", "q.onnx"]


def bench_precisions(capsys: pytest.CaptureFixture[str], *files: Path) -> list[str]:
    assert (
        run(["bench", *map(str, files), "--max-time", "0.5", "--input", "1,1,8,8", "--json"]) == 0
    )
    return [row["precision"] for row in json.loads(capsys.readouterr().out)["models"]]


def test_bench_names_the_precision_of_each(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = quantized(place, "digits.onnx", tmp_path / "int8.onnx")
    assert bench_precisions(capsys, place / "digits.onnx", found.path) == ["float32", "int8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--int8"], "--int8 needs examples"),
        (["--data", "train.npz"], "--data is about --int8"),
        (["--target", "arm"], "--target is about --int8"),
        (["--int8", "--data", "train.npz", "--target", "x86-vni"], "did you mean x86-vnni?"),
        (["--int8", "--data", "nowhere"], "no such data"),
        (["--int8", "--samples", "4"], "--samples is about data"),
        (["--int8", "--data", "wide.npy"], "wide.npy"),
    ],
)
def test_half_of_a_request_is_refused(
    place: Path,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    np.save(place / "wide.npy", np.zeros((4, 3, 9, 9), np.float32))
    before = sorted(place.iterdir())
    assert run(["export", "digits.onnx", *words, "-o", "new.onnx"]) == 2
    assert said in capsys.readouterr().err
    assert sorted(place.iterdir()) == before


def one_op(path: Path, op: str, weight: np.ndarray) -> Path:
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    x, y = (helper.make_tensor_value_info(n, kind, [1, 8]) for n in "xy")
    node, init = helper.make_node(op, ["x", "w"], ["y"]), numpy_helper.from_array(weight, "w")
    graph = helper.make_graph([node], "g", [x], [y], [init])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_a_file_that_is_no_network_in_float32_is_refused(place: Path, tmp_path: Path) -> None:
    made = quantized(place, "digits.onnx", tmp_path / "int8.onnx").path
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    (tmp_path / "empty.onnx").write_bytes(b"")
    half = one_op(tmp_path / "half.onnx", "MatMul", np.eye(8, dtype=np.float16))
    add = one_op(tmp_path / "add.onnx", "Add", np.ones(8, np.float32))
    for path, said in (
        (made, "in whole numbers already"),
        (text, "is no ONNX file"),
        (tmp_path / "empty.onnx", "is no ONNX file"),
        (half, "holds float16 numbers"),
        (add, "nothing faster"),
        (tmp_path / "absent.onnx", "there is no file"),
    ):
        with pytest.raises(BadInput, match=said):
            Source(path)


def test_data_that_do_not_fit_leave_the_old_file(place: Path, tmp_path: Path) -> None:
    old = tmp_path / "int8.onnx"
    old.write_text("old")
    wide = surgeon.open_data([torch.zeros(4, 1, 9, 9)], torch.zeros(1, 1, 9, 9))
    for given, said in ((wide, "do not fit"), ([], "no examples to calibrate on")):
        with pytest.raises(BadInput, match=said):
            surgeon.quantize(place / "digits.onnx", old, given)
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx"]
