"""`surgeon shrink` in steps, with training: files that check, apply and load know; kills; what cannot be meant."""

import json
import signal
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from test_cli_abort import interrupted
from test_cli_tune import FACTORY
from test_tune import X, digits, net, same
from torch.utils.data import TensorDataset

import surgeon
from surgeon import Tuning
from surgeon.cli.main import run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dense.pth, early.pth, net.py:make and data.pt."""
    folder = tmp_path_factory.mktemp("regime")
    x, y = digits()
    given = TensorDataset(x[:400], y[:400])
    dense = surgeon.tune(net(), given, options=Tuning(4, 32, lr=0.1), example_inputs=X).model
    torch.save(dense.state_dict(), folder / "dense.pth")
    torch.save({"state_dict": net().state_dict()}, folder / "early.pth")
    torch.save(net(4).state_dict(), folder / "other.pth")
    (folder / "net.py").write_text(FACTORY)
    torch.save((x[:400], y[:400]), folder / "data.pt")
    return folder


def told(place: Path, out: Path, *more: str) -> list[str]:
    given = ["shrink", str(place / "dense.pth"), "--arch", f"{place / 'net.py'}:make"]
    return [*given, "-o", str(out), "--no-onnx", *(more or ("--ratio", "0.5"))]


def training(place: Path, *more: str) -> tuple[str, ...]:
    data = ("--data", str(place / "data.pt"), "--samples", "64")
    how = ("--tune", "2", "--tune-with", "batch=32", "--tune-with", "lr=0.05")
    return ("--ratio", "0.5", "--steps", "3", *data, *how, *more)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """Shrunk in three steps by one process; what it said on stdout is in `said.json` beside it."""
    out = place / "whole"
    with redirect_stdout(StringIO()) as said:
        assert run(told(place, out, *training(place, "--json"))) == 0
    (place / "said.json").write_text(said.getvalue())
    return out


def test_files_of_a_shrink_in_steps(place, whole, tmp_path, capsys):
    out, said = whole, json.loads((place / "said.json").read_text())
    assert [s["step"] for s in said["steps"]] == [1, 2, 3]
    assert said["request"]["tune"] == 2
    assert {p.name for p in out.iterdir()} == {
        "slim.pth", "slim.safetensors", "plan.json", "report.json", "report.html",
    }  # fmt: skip
    original, arch = str(place / "dense.pth"), ["--arch", f"{place / 'net.py'}:make"]
    assert run(["check", original, str(out / "slim.pth"), *arch]) == 0
    assert "structure proven" in capsys.readouterr().err
    again = str(tmp_path / "again")
    assert run(["apply", str(out / "plan.json"), original, *arch, "-o", again, "--no-onnx"]) == 0
    slim = surgeon.load(out / "slim.pth", model=net())
    assert [p.shape for p in slim.parameters()] == [
        p.shape for p in surgeon.load(tmp_path / "again/slim.pth").parameters()
    ]


def test_the_summary_says_each_step(place, tmp_path, capsys):
    assert run(told(place, tmp_path / "out", *training(place))) == 0
    said = capsys.readouterr().out
    assert "step 1 of 3: 33.3% of what was asked" in said
    assert "top-1 on validation" in said


@pytest.mark.parametrize("moment", ["step 2 of 3: tune", "step 3 of 3: cut"])
def test_a_shrink_that_was_killed_goes_on(place, whole, tmp_path, capsys, moment):
    out = tmp_path / "out"
    args = told(place, out, *training(place))
    assert interrupted(moment, args, signal.SIGKILL)[0] == -signal.SIGKILL
    assert not (out / "slim.pth").exists()
    assert (out / "unfinished" / "steps.pt").exists()
    assert run(args) == 0
    said = capsys.readouterr().err
    assert "went on after step" in said
    assert "step 1 of 3" not in said
    assert not (out / "unfinished").exists()
    one, other = (surgeon.load(f / "slim.pth", model=net()) for f in (out, whole))
    assert same(one, other)


def test_ctrl_c_leaves_no_slim_file_and_says_how_to_go_on(place, tmp_path):
    out = tmp_path / "out"
    code, said = interrupted("step 2 of 3: tune", told(place, out, *training(place)))
    assert code == 130
    assert "the same command goes on after the last step or epoch" in said
    assert [p.name for p in out.iterdir()] == ["unfinished"]


def test_rewound_and_new_weights(place, tmp_path, capsys):
    rewound, new = tmp_path / "rewound", tmp_path / "new"
    asked = ("--ratio", "0.5", "--no-measure")
    assert run(told(place, rewound, *asked, "--rewind", str(place / "early.pth"))) == 0
    assert run(told(place, new, *asked, "--reinit", "--seed", "1")) == 0
    early = surgeon.apply(surgeon.Plan.load(rewound / "plan.json"), net(), X)
    assert same(surgeon.load(rewound / "slim.pth", model=net()), early)
    assert not same(surgeon.load(new / "slim.pth", model=net()), early)
    capsys.readouterr()
    arch = ["--arch", f"{place / 'net.py'}:make"]
    assert run(["check", str(place / "dense.pth"), str(new / "slim.pth"), *arch]) == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--tune", "2"), "--tune trains, and there are no data"),
        (("--schedule", "linear"), "schedule says how"),
        (("--steps", "2", "--schedule", "cubic"), "no schedule 'cubic'"),
        (("--tune-with", "lr=0.1"), "--tune-with is about training"),
        (("--teacher", "none"), "--teacher is about training"),
        (("--restart",), "--restart is of runs that train"),
        (("--reinit", "--rewind", "early.pth"), "not both"),
        (("--reinit", "--steps", "2"), "nobody trained"),
        (("--rewind", "missing.pth"), "missing.pth"),
        (("--steps", "3", "--dry-run"), "leave out --steps"),
        (("--steps", "0"), "steps"),
    ],
)
def test_what_cannot_be_meant(place, tmp_path, capsys, more, says):
    assert run(told(place, tmp_path / "out", "--ratio", "0.5", *more)) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("learning=1", "learning does not exist"),
        ("lr=fast", "'fast' is not a number"),
        ("lr", "cannot be read"),
        ("optimizer=sgdd", "optimizer 'sgdd' is unknown"),
        ("epochs=3", "epochs does not exist"),
    ],
)
def test_what_tuning_does_not_know(place, tmp_path, capsys, setting, says):
    more = ("--data", str(place / "data.pt"), "--tune", "1", "--tune-with", setting)
    assert run(told(place, tmp_path / "out", "--ratio", "0.5", *more)) == 2
    assert says in capsys.readouterr().err


def test_another_networks_checkpoint_is_refused(place, tmp_path, capsys):
    more = ("--ratio", "0.5", "--rewind", str(place / "other.pth"))
    assert run(told(place, tmp_path / "out", *more)) == 2
    assert "no earlier checkpoint of this network" in capsys.readouterr().err


def test_training_without_labels_or_a_teacher_leaves_nothing(place, tmp_path, capsys):
    torch.save(torch.rand(20, *X.shape[1:]), tmp_path / "unlabelled.pt")
    given = ("--data", str(tmp_path / "unlabelled.pt"), "--tune", "1", "--teacher", "none")
    assert run(told(place, tmp_path / "out", "--ratio", "0.5", *given)) == 2
    assert "no labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
