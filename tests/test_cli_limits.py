"""Measured limits and sweeps on the command line: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from test_cli import NET, Go, files, go, here, hurried, moved_to, quick  # noqa: F401  fixtures

from surgeon.cli import parse
from surgeon.cli.main import run
from surgeon.measure.latency import Budget
from surgeon.pipeline import limited, proposed
from surgeon.report import files as written
from surgeon.report.sweep import best

pytestmark = pytest.mark.usefixtures("quick", "short")


def shortened(patch: pytest.MonkeyPatch) -> None:
    """Rounds take a moment."""
    small = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.3)
    patch.setattr(limited, "_BUDGET", small)
    patch.setattr(limited, "_BESIDE", small)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds that take a moment."""
    shortened(monkeypatch)


def once(folder: Path, patch: pytest.MonkeyPatch, *args: str) -> tuple[str, str]:
    """Go there and run a command, which several tests look at: its stdout and stderr."""
    moved_to(folder, patch)
    hurried(patch)
    shortened(patch)
    np.save("some.npy", np.random.default_rng(0).random((6, 3, 8, 8), np.float32))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = run(list(args))
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Shrunk to a size: the folder, and what was said on the screen."""
    folder = tmp_path_factory.mktemp("sized")
    with pytest.MonkeyPatch.context() as patch:
        asked = ("shrink", *NET, "--max-size", "0.6x", "--round-to", "1")
        return folder / "net-slim", once(folder, patch, *asked)[0]


def test_a_limit_on_the_size_of_the_file(sized: tuple[Path, str]):
    folder, _ = sized
    report = json.loads((folder / "report.json").read_text())
    assert report["request"]["max_size"] == "0.6x"
    found = report["limited"]
    assert found["target"] == {"device": "local", "runtime": "ort", "threads": 1}
    share = found["reached"]["measured"]["size"]["share"]["value"]
    assert share <= 0.6 and found["reached"]["met"] and 1 <= len(found["rounds"]) <= 6
    before, after = (report["measured"][k]["onnx_bytes"] for k in ("before", "after"))
    assert after / before == pytest.approx(share)
    assert (folder / "slim.onnx").stat().st_size == pytest.approx(after, rel=0.02)
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["request"]["target"] == found["target"]


def test_what_was_reached_is_shown(sized: tuple[Path, str]):
    _, out = sized
    assert "size: asked 0.6x, reached 0." in out and "measured round" in out


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--max-size", "100B", "--round-to", "1"), 3, "--max-size 100B cannot be reached with ort, 1 thread: the least"),
        (("--max-size", "1GB"), 3, "the limits are met already"),
        (("--max-latency", "5"), 2, "has no unit"),
        (("--max-latency", "0.5x", "--no-measure"), 2, "leave out --no-measure"),
        (("--max-latency", "0.5x", "--ratio", "0.5"), 2, "contradict"),
        (("--max-latency", "0.5x", "--dry-run"), 2, "known once cuts were measured"),
        (("--max-latency", "0.5x", "--steps", "2"), 2, "in one cut"),
        (("--max-latency", "0.5x", "--runtime", "ortt"), 2, "did you mean ort?"),
        (("--max-latency", "0.5x", "--device", "shh://pi"), 2, "did you mean"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be(go: Go, args: tuple[str, ...], code: int, said: str):  # noqa: F811
    got, _, err = go("shrink", *NET, *args)
    assert got == code and said in err, err
    assert not Path("net-slim").exists()


def test_a_limit_in_numbers_is_one_in_every_file(go: Go):  # noqa: F811
    counted = ("--max-flops", "0.6x", "--no-measure", "--no-onnx")
    code, out, _ = go("shrink", *NET, *counted, "--json", "-o", "rel")
    whole = json.loads(out)["measured"]["before"]["flops"]
    code, out, err = go(
        "shrink", *NET, "--max-flops", f"{0.6 * whole / 1e6:.6f}M", "--no-onnx", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["measured"]["after"]["flops"] <= 0.6 * whole
    assert report["request"]["max_flops"].endswith("M") and Path("net-slim/report.html").exists()


def test_what_is_counted_holds_beside_what_is_measured(go: Go):  # noqa: F811
    both = ("--max-flops", "0.001x", "--max-latency", "0.9x")
    code, _, err = go("shrink", *NET, *both)
    assert code == 3 and "max_flops" in err.replace("-", "_"), err
    assert not Path("net-slim").exists()
    met_already = ("--max-flops", "0.5x", "--max-latency", "100s", "--round-to", "1")
    code, out, err = go("shrink", *NET, *met_already, "--no-onnx", "--json")
    assert code == 0, err
    measured = json.loads(out)["measured"]
    assert measured["after"]["flops"] <= 0.5 * measured["before"]["flops"]


def test_a_sensitivity_says_how_much_of_each_group_a_measured_limit_takes(
    go: Go,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    np.save("some.npy", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    asked = ("sensitivity", *NET, "--data", "some.npy", "-o", "s.json", "--ratios", "0.5,0.9")
    assert go(*asked)[0] == 0
    used, shares = [], proposed.shares
    monkeypatch.setattr(proposed, "shares", lambda *given: used.append(shares(*given)) or used[-1])
    any_width = ("--round-to", "1")  # whatever this processor's kernels like
    limit = ("--max-size", "0.6x", *any_width, "--no-onnx")
    code, out, err = go("shrink", *NET, *limit, "--sensitivity", "s.json", "--json")
    assert code == 0, err
    assert used and json.loads(out)["request"]["sensitivity"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[list[str]]]:
    """A sweep of two limits: its folder, what it told as JSON, and the notes each time that it was written."""
    folder, notes, kept = tmp_path_factory.mktemp("swept"), list[list[str]](), written.write_sweep

    def noted(found: dict, out: Path) -> None:
        notes.append(found["notes"])
        kept(found, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "write_sweep", noted)
        limits = ("--max-params", "0.8x..0.4x", "--points", "2", "--eval-data", "some.npy")
        out, _ = once(folder, patch, "sweep", *NET, *limits, "--json")
    return folder / "net-sweep", json.loads(out), notes


def test_a_range_is_of_points_that_are_as_far_apart():
    assert parse.limits("0.8x..0.4x", "--max-params", 3) == ["0.8x", "0.6x", "0.4x"]


def test_a_sweep_cuts_to_each_limit_and_writes_a_page(swept: tuple[Path, dict, list[list[str]]]):
    folder, found, _ = swept
    assert [r["limit"] for r in found["rows"]] == ["0.8x", "0.4x"]
    assert {"slim.pth", "slim.onnx", "plan.json", "report.html"} <= files(str(folder / "0.4x"))
    whole = found["dense"]["params"]
    for row, limit in zip(found["rows"], (0.8, 0.4), strict=True):
        assert row["params"] <= limit * whole and row["ratio"] is not None
    assert json.loads((folder / "sweep.json").read_text())["rows"] == found["rows"]
    assert "0.4x" in (folder / "sweep.html").read_text()
    # so small a network may be timed slower than the original: then no cut is worth taking
    faster = any(row["ratio"]["value"] < 1 for row in found["rows"])
    assert (best(found) is not None) == faster


def test_a_sweep_says_how_far_it_is_and_what_its_quality_is_of(
    swept: tuple[Path, dict, list[list[str]]],
):
    first, last = swept[2]
    assert "unfinished: 1 of 2 limits so far" in first
    assert not any("unfinished" in note for note in last)
    assert "quality is of 6 examples (held out from the cut)" in last


def test_a_limit_out_of_reach_is_a_row_that_says_why(go: Go):  # noqa: F811
    code, out, err = go("sweep", *NET, "--max-params", "0.6x,0.001x", "-o", "both")
    assert code == 0 and "out of reach" in out and "cannot be reached" in err
    rows = json.loads(Path("both/sweep.json").read_text())["rows"]
    assert "why" not in rows[0] and "0.001x cannot be reached" in rows[1]["why"]
    assert not Path("both/0.001x").exists()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "nothing was asked"),
        (("--max-flops", "0.9x..0.5x", "--max-params", "0.9x..0.5x"), 2, "one quantity at a time"),
        (("--max-latency", "0.5x"), 2, "a sweep is of several limits"),
        (("--max-latency", "12ms..3ms"), 2, "a range is of shares"),
        (("--max-latency", "0.9x..3"), 2, "has no unit"),
        (("--max-params", "0.002x,0.001x"), 3, "none of the limits can be reached"),
    ],
)
def test_sweeps_that_cannot_be(go: Go, args: tuple[str, ...], code: int, said: str):  # noqa: F811
    got, _, err = go("sweep", *NET, *args)
    assert got == code and said in err, err
    assert not Path("net-sweep/sweep.html").exists()
