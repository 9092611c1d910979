"""`surgeon sensitivity`: each group alone against a direct computation; resumed, refused, drawn, and used by shrink."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import draw
from nets.sparse import ValidChain, build
from torch import Tensor, nn

import surgeon
from surgeon.cli.main import run
from surgeon.cli.parse import ratios
from surgeon.errors import BadInput
from surgeon.heal import curves
from surgeon.sensitivity.look import Seen
from surgeon.sensitivity.options import gone_at

torch.set_num_threads(1)
X, Y = draw(40, 3, 8, 8, seed=4), torch.arange(40) % 5
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]
PLAIN = surgeon.Sensing((0.25, 0.5, 0.9), "l2", fit=False, labelled=True)


def net() -> nn.Module:
    return build(ValidChain)


@pytest.fixture(scope="module")
def plain() -> surgeon.Sensitivity:
    return surgeon.sensitivity(net(), X[:2], BATCHES, PLAIN)


@torch.no_grad()
def without(model: nn.Module, name: str, gone: np.ndarray) -> Tensor:
    """The outputs with these channels of the stem (norm behind it) or the last conv silenced."""
    norm = model.norm if name == "stem" else model.last
    norm.weight[gone] = 0  # type: ignore[index, operator]
    norm.bias[gone] = 0  # type: ignore[index, operator]
    return model(X)


def test_each_group_alone_as_computed_by_hand(plain: surgeon.Sensitivity) -> None:
    with torch.no_grad():
        want = net()(X).double()
    seen = {g.name: g.kept for g in surgeon.propose(net(), X[:2], 0.5).plan.groups}
    assert [g.name for g in plain.groups] == list(seen) == ["stem", "conv"]
    spread = (want - want.mean(0)).square().mean()
    for line in plain.groups:
        for point in line.points:
            kept = surgeon.propose(net(), X[:2], point.gone / line.size).plan.keep
            stay = kept[f"{line.name}.weight"][0]
            gone = np.setdiff1d(np.arange(line.size), stay)
            assert len(gone) == point.gone == gone_at(line.size, point.ratio)
            got = without(net(), line.name, gone)
            assert point.error == pytest.approx(
                float((got.double() - want).square().mean() / spread), rel=1e-4
            )
            assert point.top1 == pytest.approx(float((got.argmax(1) == Y).float().mean()))
    dense = float((want.argmax(1) == Y).float().mean())
    assert plain.data["dense"]["top1"] == pytest.approx(dense)
    assert plain.complete


def test_fitting_anew_loses_less(plain: surgeon.Sensitivity) -> None:
    fitted = surgeon.sensitivity(net(), X[:2], BATCHES, replace(PLAIN, criterion=None, fit=True))
    for a, b in zip(fitted.groups, plain.groups, strict=True):
        assert a.points[1].error < b.points[1].error


class Killed(Exception):
    """As if the process were killed."""


def stop_in(group: str) -> Callable[[Seen], None]:
    def watch(at: Seen) -> None:
        if at.group == group:
            raise Killed

    return watch


def test_a_killed_run_goes_on(plain: surgeon.Sensitivity, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    with pytest.raises(Killed):
        surgeon.sensitivity(net(), X[:2], BATCHES, PLAIN, file=file, watch=stop_in("conv"))
    half = surgeon.Sensitivity.load(file)
    assert [g.name for g in half.groups] == ["stem"] and not half.complete
    with pytest.raises(BadInput, match=r"s\.json has 1 of 2 groups"):
        surgeon.shrink(net(), X[:2], 0.5, sensitivity=file, measure=False)
    seen: list[Seen] = []
    done = surgeon.sensitivity(net(), X[:2], BATCHES, PLAIN, file=file, watch=seen.append)
    assert done.groups == plain.groups == surgeon.Sensitivity.load(file).groups
    assert [s.group for s in seen] == ["conv"] * 3 and seen[-1].done == seen[-1].total == 6


def test_the_file_of_another_run_is_refused_by_name(
    plain: surgeon.Sensitivity, tmp_path: Path
) -> None:
    file = tmp_path / "s.json"
    plain.save(file)
    other = net()
    with torch.no_grad():
        other.stem.weight[0] += 1  # type: ignore[index, union-attr]
    more = BATCHES[:1]
    for what, args, options in (
        ("other weights", (other, X[:2], BATCHES), PLAIN),
        ("other data", (net(), X[:2], more), PLAIN),
        ("another ratios", (net(), X[:2], BATCHES), replace(PLAIN, ratios=(0.5,))),
        ("another order", (net(), X[:2], BATCHES), replace(PLAIN, criterion="l1")),
    ):
        with pytest.raises(BadInput, match=rf"s\.json is of a run with {what}"):
            surgeon.sensitivity(*args, options, file=file)
    with pytest.raises(BadInput, match=r"s\.json was measured on other weights"):
        surgeon.shrink(other, X[:2], 0.5, sensitivity=file, measure=False)
    file.write_text(file.read_text()[:200])
    with pytest.raises(BadInput, match="is not what surgeon sensitivity wrote"):
        surgeon.Sensitivity.load(file)


def test_shrink_takes_the_shares_and_measures_nothing(
    plain: surgeon.Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(curves.Bench, "__init__", never)
    cheap, dear = plain.groups
    for one, other in ((cheap, dear), (dear, cheap)):
        free = replace(one, points=tuple(replace(p, error=0.0) for p in one.points))
        known = replace(plain, groups=(free, replace(other, points=_steep(other.points))))
        data = [X[:16]]
        r = surgeon.shrink(net(), X[:2], 0.3, data=data, sensitivity=known, measure=False)
        lost = {g.name: g.size - g.kept for g in r.plan.groups}
        assert lost[one.name] > 0 and lost[other.name] == 0
        assert r.plan.request["sensitivity"]["examples"] == 40
    bare = surgeon.shrink(
        net(), X[:2], 0.3, sensitivity=replace(plain, how={"fit": True}), measure=False
    )
    assert any("were fitted anew" in n for n in bare.notes)


def _steep(points: tuple) -> tuple:
    return tuple(replace(p, error=10.0 * p.gone) for p in points)


def test_what_cannot_be_meant() -> None:
    for wrong in ((), (0.0, 0.5), (1.0,), (True,)):
        with pytest.raises(BadInput, match="ratio"):
            surgeon.Sensing(wrong)
    with pytest.raises(BadInput, match="--dead"):
        surgeon.shrink(net(), X[:2], dead=True, sensitivity="nowhere.json")
    plain = surgeon.Sensitivity({}, {}, {}, ())
    with pytest.raises(BadInput, match="after the first of several steps"):
        surgeon.shrink(net(), X[:2], 0.5, steps=2, sensitivity=plain)
    assert ratios("0.1..0.4") == (0.1, 0.2, 0.3, 0.4)
    assert ratios("20%..0.8:0.3") == (0.2, 0.5, 0.8)
    assert ratios("0.5") == (0.5,)
    for text in ("0.9..0.1", "0..0.5", "a..b"):
        with pytest.raises(BadInput, match="--ratios"):
            ratios(text)


NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    np.savez("x.npz", x=X.numpy(), labels=(Y % 5).numpy())
    return tmp_path


ASKED = ["sensitivity", "nets.py:net", "--data", "x.npz", "--input", "1,3,8,8", "-o", "s.json"]


def test_the_command_shows_draws_and_writes(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert run([*ASKED, "--ratios", "0.5,0.9"]) == 0
    said = capsys.readouterr().out
    assert (
        "top-1 when it alone is cut" in said and "-90%" in said and "written: s.json, s.svg" in said
    )
    assert Path("s.svg").read_text().lstrip().startswith("<?xml")
    assert "http://www.w3.org" in Path("s.svg").read_text()
    drawn = Path("s.svg").read_bytes()
    assert run([*ASKED, "--ratios", "0.5,0.9", "--json", "--plot", "s.png"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"] and [len(g["points"]) for g in report["groups"]] == [2, 2]
    assert Path("s.png").read_bytes()[:4] == b"\x89PNG" and Path("s.svg").read_bytes() == drawn
    asked = [
        "shrink",
        "nets.py:net",
        "--input",
        "1,3,8,8",
        "--data",
        "x.npz",
        "--sensitivity",
        "s.json",
    ]
    assert run([*asked, "--ratio", "0.5", "--no-onnx", "-o", "out", "-q"]) == 0
    assert json.loads(Path("out/plan.json").read_text())["request"]["sensitivity"]["fit"]
    assert run([*ASKED, "--plot", "s.bmp"]) == 2
    assert "no such kind of plot" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(here: Path) -> None:
    command = [sys.executable, "-m", "surgeon", *ASKED]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line == "  0\n":  # the first group is done
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=60)[1]
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130 and "the same command goes on" in rest
    assert surgeon.Sensitivity.load("s.json").groups
    assert run([*ASKED, "-q"]) == 0
    assert surgeon.Sensitivity.load("s.json").complete
