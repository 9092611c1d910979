"""Several limits on one network: the front is what nothing beats, sweep.html picks from it, `surgeon report` draws anew."""

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE, small

from surgeon.cli.main import run
from surgeon.report.document import dumps
from surgeon.report.files import write_reports, write_sweep
from surgeon.report.page import page
from surgeon.report.sweep import best, compared_by, front, row, sweep, unreached
from surgeon.report.sweep_page import sweep_page

LIMITS = {"0.9x": (0.88, 0.93), "0.7x": (0.69, 0.90), "0.6x": (0.59, 0.905), "0.4x": (0.39, 0.7)}


def report_of(ratio: float, accuracy: float | None = None, error: float | None = None) -> dict:
    """A report.json of a cut that took this share of the time."""
    report = small()
    report["request"] = {"max_latency": "0.5x"}
    told = {"value": ratio, "low": ratio - 0.01, "high": ratio + 0.01}
    report["measured"]["latency_ratio"]["after"] |= told
    before = {"top1": 0.95}
    rates = {"before": before, "after": {"top1": accuracy}} if accuracy is not None else None
    report["metrics"] |= {"accuracy": rates, "reconstruction_error": error}
    return report


def swept(limits: dict[str, tuple[float, float]] = LIMITS) -> dict[str, Any]:
    reports = {limit: report_of(*told) for limit, told in limits.items()}
    rows = [row(limit, f"sweep/{limit}", report) for limit, report in reports.items()]
    rows.append(unreached("0.1x", "the least that was measured is 0.2x"))
    found = sweep(next(iter(reports.values())), ("latency", "out"), rows, ["a note"])
    return json.loads(dumps(found))


def test_a_row_holds_the_numbers_of_its_report():
    report = report_of(0.5, 0.8, 0.02)
    one = row("0.5x", "a", report)
    assert one["ratio"] == {"value": 0.5, "low": 0.49, "high": 0.51}
    assert one["latency_s"] == pytest.approx({"value": 1e-3, "low": 0.98e-3, "high": 1.02e-3})
    assert (one["size"], one["params"], one["flops"]) == (2000, 250, 400)
    assert one["quality"] == {"accuracy": 0.8, "output_error": 0.02}


def test_the_front_is_marked_and_the_best_within_a_limit_is_picked():
    found = swept()
    assert [r.get("front") for r in found["rows"]] == [True, False, True, True, None]
    assert found["dense"]["quality"] == {"accuracy": 0.95}
    assert best(found) == 0
    assert best(found, 0.7) == 2 and best(found, 0.5) == 3 and best(found, 0.2) is None


def test_cuts_are_compared_by_what_all_of_them_have():
    rows = [row("a", "a", report_of(0.5, 0.8, 0.1)), row("b", "b", report_of(0.6, None, 0.2))]
    found = sweep(report_of(0.5), ("latency", "."), rows)
    assert compared_by(found) == "output_error"
    assert [r["front"] for r in found["rows"]] == [True, False]  # a lower error is better
    found = sweep(report_of(0.5), ("latency", "."), [row("a", "a", report_of(0.5))])
    assert compared_by(found) == "params"
    text = sweep_page(json.loads(dumps(found)))
    assert "compared by the parameters that they keep" in text and "parameters kept, %" in text
    assert text.count("<th scope") == 11  # no column for what the table has already


def test_what_is_slower_than_the_original_is_on_no_front():
    reports = {"0.9x": report_of(1.02, 0.95), "0.5x": report_of(1.3, 0.9)}
    rows = [row(limit, limit, report) for limit, report in reports.items()]
    found = json.loads(dumps(sweep(reports["0.9x"], ("flops", "."), rows)))
    assert front(found) == [False, False] and best(found) is None
    text = sweep_page(found)
    assert "checked" not in text.split("<script>")[0] and "svg" in text


def test_a_metric_of_ones_own_has_its_name_and_goes_first():
    reports = [report_of(0.5, 0.9), report_of(0.6, 0.8)]
    for report, value in zip(reports, (3.0, 4.0), strict=True):
        report["metric"] = {"name": "hits", "before": 5.0, "after": value}
    rows = [row(str(at), "a", report) for at, report in enumerate(reports)]
    found = json.loads(dumps(sweep(reports[0], ("latency", "."), rows)))
    assert found["metric"] == "hits" and compared_by(found) == "metric"
    assert front(found) == [True, True] and best(found) == 1
    assert "Time against hits" in sweep_page(found)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), min_size=1, max_size=9))
def test_the_front_holds_whatever_is_not_beaten(points: list[tuple[int, int]]):
    rows = [
        {"limit": "", "ratio": {"value": x}, "params": 1, "quality": {"accuracy": float(y)}}
        for x, y in points
    ]
    marked = front({"rows": rows})
    for (x, y), on in zip(points, marked, strict=True):
        beaten = any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert on == (not beaten)


def test_the_page_shows_every_row_and_what_could_not_be_reached():
    found = swept()
    text = html.unescape(re.sub(r"<[^>]+>", " ", sweep_page(found)))
    for said in (
        "0.690x [0.680, 0.700]",
        "90.5%",
        "95.0%",
        "the least that was measured",
        "a note",
    ):
        assert said in text, said
    assert 'href="./sweep/0.9x/report.html"' in sweep_page(found)


def test_a_sweep_without_timing_or_with_names_that_are_markup_has_a_page():
    found = swept()
    for one in found["rows"]:
        if "why" not in one:
            one |= {"ratio": None, "latency_s": None, "folder": HOSTILE, "limit": HOSTILE}
        else:
            one["why"] = HOSTILE
    found["model"]["source"] = HOSTILE
    text = sweep_page(found)
    assert "<script>window" not in text and "<img" not in text and "<svg" not in text
    assert text.count("</script>") == 2


class TestCommand:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_pages_are_made_anew_from_the_numbers(self, capsys: pytest.CaptureFixture):
        Path("a").mkdir()
        write_reports(small(), Path("a"))
        write_sweep(swept(), Path("a"))
        first = {p.name: p.read_text() for p in Path("a").glob("*.html")}
        for path in Path("a").glob("*.html"):
            path.unlink()
        assert run(["report", "a"]) == 0
        assert {p.name: p.read_text() for p in Path("a").glob("*.html")} == first
        assert first["report.html"] == page(json.loads(Path("a/report.json").read_text()))
        assert "written: a/report.html" in capsys.readouterr().out

    def test_events_hold_the_same_numbers(self):
        event_accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        report, found = report_of(0.5, 0.9), swept()
        Path("a").mkdir()
        write_reports(report, Path("a"))
        write_sweep(found, Path("a"))
        assert run(["report", "a", "--tensorboard", "runs", "-q"]) == 0

        def read(name: str) -> Any:
            events = event_accumulator.EventAccumulator(name)
            events.Reload()
            return events

        events = read("runs/report")

        def values(tag: str) -> list[float]:
            return [e.value for e in events.Scalars(tag)]

        assert values("cost/params") == [1000, 250]
        assert values("cost/latency_ms") == pytest.approx([2.0, 1.0])
        assert values("accuracy/top1") == pytest.approx([0.95, 0.9])
        layers = [x["out"] for x in report["network"]["layers"] if "out" in x]
        assert values("widths/after") == [after for _, after in layers]
        assert any("outcome" in tag for tag in events.Tags()["tensors"])
        events = read("runs/sweep")
        assert values("sweep/accuracy") == pytest.approx([0.93, 0.90, 0.905, 0.7])

    def test_without_tensorboard_it_says_how_to_get_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ):
        write_reports(small(), Path())
        for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        assert run(["report", ".", "--tensorboard", "runs"]) == 2
        assert "pip install 'model-surgeon[tune]'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "cannot be read"),
            ("[]", "holds no report"),
            ("{}", "is not what surgeon writes"),
            ('{"model": 3}', "is not what surgeon writes"),
            ('{"surgeon": "9.0.0"}', "was written by surgeon 9.0.0, and this is"),
        ],
    )
    def test_what_is_no_report_is_refused(
        self, text: str, said: str, capsys: pytest.CaptureFixture
    ):
        Path("report.json").write_text(text)
        assert run(["report", "."]) == 2
        assert said in capsys.readouterr().err
        assert not Path("report.html").exists()

    def test_a_folder_without_a_report_is_refused(self, capsys: pytest.CaptureFixture):
        assert run(["report", "nowhere"]) == 2
        assert "no report.json" in capsys.readouterr().err
