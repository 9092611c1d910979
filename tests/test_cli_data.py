"""`surgeon shrink --data`: accuracy is kept from examples, said and written; what cannot be meant is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import surgeon
from surgeon.cli.main import run
from surgeon.files.slim import plan_of

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from models.digits import accuracy, data  # noqa: E402  from the folder of the example network

torch.set_num_threads(1)
MODEL = [str(ROOT / "models/digits_resnet.pth"), "--arch", f"{ROOT}/models/digits.py:digits_resnet"]
ASKED = ["--input", "1,1,8,8", "--max-flops", "0.12x", "--no-measure", "--no-onnx"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits.npy without labels, digits.npz with them: of the training images, 256; few.npy and few.npz: 64."""
    folder = tmp_path_factory.mktemp("digits")
    x, y, *_ = data()
    for name, count in (("digits", 256), ("few", 64)):
        np.save(folder / f"{name}.npy", x[:count].numpy())
        np.savez(folder / f"{name}.npz", x=x[:count].numpy(), labels=y[:count].numpy())
    return folder


def shrunk(out: Path, *more: str) -> Path:
    assert run(["shrink", *MODEL, *ASKED, "-o", str(out), *more]) == 0
    return out


def kept_channels(out: Path) -> dict:
    return json.loads((out / "plan.json").read_text())["keep"]


def held_out(out: Path) -> float:
    return accuracy(surgeon.load(out / "slim.pth"))


@pytest.fixture(scope="module")
def kept(place: Path) -> Path:
    """Shrunk with all that labelled data are good for."""
    return shrunk(place / "kept", "--data", str(place / "digits.npz"), "--samples", "200")


@pytest.fixture(scope="module")
def without(place: Path) -> Path:
    """Shrunk as much, without data."""
    return shrunk(place / "without")


def test_data_keep_the_accuracy_on_images_that_they_do_not_hold(kept, without):
    assert held_out(kept) > held_out(without) + 30
    assert held_out(kept) > 90


def test_the_report_says_what_the_data_did(kept):
    report = json.loads((kept / "report.json").read_text())
    found = report["recovery"]
    assert found["examples"] == 200
    assert found["output_error"]["fitted"] < found["output_error"]["cut"]
    assert found["top1"]["dense"] >= found["top1"]["fitted"] > found["top1"]["cut"] - 1e-9
    assert "data: 200 of 256 examples, chosen by seed 0" in report["notes"]
    page = (kept / "report.html").read_text()
    assert "output error on 200 examples" in page
    assert "top-1 on the data given" in page


def test_without_labels_on_the_screen_and_in_json(place, tmp_path, capsys):
    data = ["--data", str(place / "digits.npy"), "--mean", "0", "--std", "1"]
    shrunk(tmp_path / "out", *data)
    said = capsys.readouterr()
    assert "output error on 128 examples" in said.out
    assert "top-1" not in said.out
    assert "numbers normalised with mean (0.0,), std (1.0,) (as given)" in said.err
    shrunk(tmp_path / "again", *data, "--json")
    found = json.loads(capsys.readouterr().out)["recovery"]
    assert found["top1"] is None
    first = json.loads((tmp_path / "out" / "report.json").read_text())["recovery"]
    assert found == first


def test_the_parts_are_those_that_are_named(place, without, tmp_path):
    data = ["--data", str(place / "digits.npz")]
    none = shrunk(tmp_path / "none", *data, "--recover", "none")
    weights = [torch.load(p / "slim.pth", weights_only=True)["state"] for p in (none, without)]
    assert all(torch.equal(weights[0][n], t) for n, t in weights[1].items())
    assert "recovery" not in json.loads((none / "report.json").read_text())
    fitted = shrunk(tmp_path / "fitted", *data, "--recover", "compensate")
    assert kept_channels(fitted) == kept_channels(without)  # chosen without the data
    assert held_out(fitted) > held_out(without) + 10
    chosen = shrunk(tmp_path / "chosen", *data, "--recover", "select, allocate")
    assert "tuned" not in json.loads((chosen / "plan.json").read_text())["model"]


def test_a_criterion_reads_the_data(place, tmp_path):
    given = ["--criterion", "taylor", "--samples", "64", "--recover", "none", "--no-check"]
    for name in ("few.npz", "few.npy"):
        shrunk(tmp_path / name, *given, "--data", str(place / name))
    x, y, *_ = data()
    model = surgeon.open_model(MODEL[0], MODEL[2], "1,1,8,8").model
    how = {"criterion": "taylor", "recover": (), "labelled": True, "data": [(x[:64], y[:64])]}
    wanted = surgeon.propose(model, torch.zeros(2, 1, 8, 8), max_flops="0.12x", **how).plan
    labelled, unlabelled = (kept_channels(tmp_path / name) for name in ("few.npz", "few.npy"))
    assert labelled == json.loads(json.dumps(wanted.to_json()))["keep"]
    assert unlabelled != labelled


def test_the_slim_file_is_proven_by_its_structure(kept, tmp_path, capsys):
    payload = torch.load(kept / "slim.pth", weights_only=True)
    assert plan_of(payload).model["tuned"]["by"] == "least squares"
    check = ["check", *MODEL, "--input", "1,1,8,8"]
    assert run([*check, str(kept / "slim.pth"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert any("tuned" in n and "structure proven" in n for n in said["notes"])
    assert said["error"] <= said["tolerance"]
    assert run([*check, str(kept / "slim.safetensors"), "--plan", str(kept / "plan.json")]) == 0
    name = next(n for n, t in payload["state"].items() if t.dim() == 4)
    wrong = {**payload["state"], name: payload["state"][name][:-1]}
    torch.save({**payload, "state": wrong}, tmp_path / "wrong.pth")
    assert run([*check, str(tmp_path / "wrong.pth")]) in (2, 4)


def test_a_replay_has_the_weights_as_cut_and_says_so(kept, tmp_path, capsys):
    out = tmp_path / "replay"
    given = [str(kept / "plan.json"), *MODEL, "--input", "1,1,8,8", "--no-measure", "--no-onnx"]
    assert run(["apply", *given, "-o", str(out)]) == 0
    assert "a replay without data has them as cut" in capsys.readouterr().err
    assert "tuned" not in json.loads((out / "plan.json").read_text())["model"]
    assert run(["check", *MODEL, "--input", "1,1,8,8", str(out / "slim.pth")]) == 0
    assert "structure" not in capsys.readouterr().err


def test_pictures_say_how_they_are_normalised(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(data()[0][:8]):
        pixels = (image[0] * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    given = ["--data", str(tmp_path / "pictures"), "--recover", "compensate"]
    shrunk(tmp_path / "out", *given, "--mean", "0.1", "--std", "0.5")
    assert "mean 0.1 and std 0.5 (as given)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "DIR/absent"], "no such data"),
        (["--data", "DIR/empty"], "holds no pictures"),
        (["--data", "DIR/digits.npy", "--recover", "selct"], "recover 'selct' does not exist"),
        (["--data", "DIR/digits.npy", "--samples", "0"], "samples is 0"),
        (["--data", "DIR/digits.npy", "--mean", "x"], "not a list of numbers"),
        (
            ["--data", "DIR/digits.npy", "--plan", "DIR/plan.json", "--recover", "select"],
            "would choose it anew",
        ),
        (["--samples", "8"], "--samples is about data"),
        (["--recover", "none"], "--recover is about data"),
        (["--mean", "0.5"], "--mean is about data"),
        (["--criterion", "taylor"], "needs data"),
    ],
)
def test_refusals(place, tmp_path, capsys, more, message):
    (place / "empty").mkdir(exist_ok=True)
    out = tmp_path / "out"
    given = [text.replace("DIR", str(place)) for text in more]
    assert run(["shrink", *MODEL, *ASKED, "-o", str(out), *given]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("error:") == 1
    assert said.out == ""
    assert not out.exists()


def test_dead_fits_nothing(place, capsys):
    given = ["--input", "1,1,8,8", "--dead", "--recover", "compensate"]
    assert run(["shrink", *MODEL, *given, "--data", str(place / "digits.npy")]) == 2
    assert "--dead chooses and fits nothing" in capsys.readouterr().err


def test_a_plan_is_replayed_with_data(kept, place, tmp_path):
    plan = json.loads((kept / "plan.json").read_text())
    said = plan["request"]["data"]
    assert (said["examples"], said["of"]) == (200, 256)
    assert said["recover"] == ["select", "allocate", "compensate"]
    given = ["--data", str(place / "digits.npz"), "--samples", "100"]
    place_of = {"apply": ["apply", str(kept / "plan.json"), *MODEL], "shrink": ["shrink", *MODEL]}
    place_of["shrink"] += ["--plan", str(kept / "plan.json")]
    for name, words in place_of.items():
        out = tmp_path / name
        assert run([*words, *given, "--no-measure", "--no-onnx", "-o", str(out)]) == 0
        assert kept_channels(out) == kept_channels(kept)
        assert held_out(out) > 90
        tuned = json.loads((out / "plan.json").read_text())["model"]["tuned"]
        assert tuned["examples"] == tuned["data"]["examples"] == 100
