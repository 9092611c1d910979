"""`surgeon tune`: from a slim.pth and arrays to a tuned slim.pth that loads, and is checked for what it is."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from test_cli_abort import begun, command, ended
from test_tune import X, digits, net, same
from torch.utils.data import TensorDataset

import surgeon
from surgeon.cli.main import run
from surgeon.errors import CheckFailed
from surgeon.files.slim import plan_of
from surgeon.structure import check_structure
from surgeon.tune import Tuning

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
FACTORY = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_tune import X, net
def make():
    return net(), X
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dense.pth, net.py:make, slim.pth and data.pt, unlabelled.pt."""
    folder = tmp_path_factory.mktemp("tune")
    x, y = digits()
    dense = surgeon.tune(
        net(), TensorDataset(x[:500], y[:500]), options=Tuning(4, 32, lr=0.1), example_inputs=X
    ).model
    torch.save(dense.state_dict(), folder / "dense.pth")
    (folder / "net.py").write_text(FACTORY)
    surgeon.save(surgeon.shrink(dense, X, 0.5, check=False, measure=False), folder / "slim.pth")
    torch.save((x[:500], y[:500]), folder / "data.pt")
    torch.save(x[:500], folder / "unlabelled.pt")
    return folder


def told(place: Path, out: Path, *more: str, data: str = "data.pt") -> list[str]:
    dense = ("--teacher", str(place / "dense.pth"), "--arch", f"{place / 'net.py'}:make")
    given = ("tune", str(place / "slim.pth"), "--data", str(place / data), "-o", str(out))
    return [*given, *dense, "--epochs", "3", "--batch", "32", "--lr", "0.05", *more]


@pytest.mark.parametrize("data", ["data.pt", "unlabelled.pt"])
def test_a_tuned_slim_file(place, tmp_path, capsys, data):
    out = tmp_path / "out"
    assert run(told(place, out, "--json", data=data)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metric"] == ("top-1" if data == "data.pt" else "loss")
    assert sorted(p.name for p in out.iterdir()) == [
        "plan.json", "slim.pth", "slim.safetensors", "tune.json",
    ]  # fmt: skip
    old, new = surgeon.load(place / "slim.pth"), surgeon.load(out / "slim.pth")
    assert not same(old, new)
    as_module = surgeon.load(out / "slim.pth", model=net())
    x = digits()[0][500:]
    torch.testing.assert_close(new(x), as_module(x))
    payload = torch.load(out / "slim.pth", weights_only=True)
    assert plan_of(payload).model["tuned"]["score"] == said["score"]
    check = ["check", str(place / "dense.pth"), "--arch", f"{place / 'net.py'}:make"]
    assert run([*check, str(out / "slim.pth"), "--json"]) == 0
    assert any("structure proven" in note for note in json.loads(capsys.readouterr().out)["notes"])
    assert run([*check, str(out / "slim.safetensors"), "--plan", str(out / "plan.json")]) == 0
    assert "weights differ by design" in capsys.readouterr().err


def test_the_structure_of_a_tuned_network_is_checked(place):
    model, found = net(), surgeon.shrink(net(), X, 0.5, check=False, measure=False)
    slim, plan = found.model, found.plan
    with torch.no_grad():
        for weight in slim.parameters():
            weight.add_(torch.randn(weight.shape))
    with pytest.raises(CheckFailed):
        surgeon.check(model, slim, plan, X)
    before = [p.clone() for p in slim.parameters()]
    assert check_structure(model, slim, plan, X).error < 1e-9
    assert all(torch.equal(a, b) for a, b in zip(before, slim.parameters(), strict=True))
    other = surgeon.shrink(net(), X, 0.25, check=False, measure=False)
    with pytest.raises(CheckFailed, match=r"conv1\.weight.*should be"):
        check_structure(model, other.model, plan, X)
    slim.conv1.padding = (0, 0)  # a wrong forward over right shapes
    with pytest.raises(surgeon.SurgeonError):
        check_structure(model, slim, plan, X)


def test_killed_and_begun_again(place, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(told(place, whole, "--epochs", "12")) == 0
    process, stderr = begun(command, told(place, killed, "--epochs", "12"))
    while not (killed / "tune-state.pt").exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    assert ended(process, stderr)[0] == -signal.SIGKILL
    assert (killed / "tune-state.pt").exists()
    assert not (killed / "slim.pth").exists()
    assert run(told(place, killed, "--epochs", "12")) == 0
    a, b = (json.loads((p / "tune.json").read_text()) for p in (whole, killed))
    assert a == b
    assert same(surgeon.load(whole / "slim.pth"), surgeon.load(killed / "slim.pth"))
    assert not (killed / "tune-state.pt").exists()


def test_refusals(place, tmp_path, capsys):
    def refused(*args: str) -> str:
        assert run(list(args)) == 2
        return capsys.readouterr().err

    slim, out = str(place / "slim.pth"), str(tmp_path / "out")
    assert "no such data" in refused("tune", slim, "--data", "absent", "-o", out)
    unlabelled = str(place / "unlabelled.pt")
    assert "no labels" in refused("tune", slim, "--data", unlabelled, "-o", out)
    assert "would be replaced" in refused("tune", slim, "--data", unlabelled, "-o", str(place))
    assert "is unknown" in refused("tune", slim, "--data", "x", "--schedule", "step")
    assert "not a list of numbers" in refused("tune", slim, "--data", "x", "--mean", "a")


def test_scalars_for_tensorboard(place, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board, out = tmp_path / "board", tmp_path / "out"
    assert run(told(place, out, "--tensorboard", str(board))) == 0
    history = json.loads((out / "tune.json").read_text())["history"]
    (file,) = board.rglob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    for tag, own in {"train/loss": "loss", "validation/top-1": "score", "lr": "lr"}.items():
        said = [(e.step, e.value) for e in events.Scalars(tag)]
        assert [step for step, _ in said] == [1, 2, 3]
        assert [value for _, value in said] == pytest.approx([h[own] for h in history])
