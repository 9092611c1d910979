"""report.html without a browser: what it says is report.json's, text is text, and lanes lead where the data go."""

import html
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from reports import HOSTILE, document, hostile, small
from test_cli import quick  # noqa: F401  a fixture
from torch import nn

from surgeon.cli.main import run
from surgeon.report.asked import goals, rounds
from surgeon.report.commands import commands
from surgeon.report.lanes import lanes
from surgeon.report.page import page
from surgeon.report.plots import costs, times, widths
from surgeon.report.web import embedded, readable


def told(text: str) -> str:
    """What a reader sees: no tags, no scripts, entities as characters."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_page_shows_what_report_json_says():
    report = small()
    text = told(page(report))
    for group in report["groups"]:
        assert f"{group['name']} {group['kind']} {group['size']} {group['kept']}" in text
    for left in report["left"]:
        assert left["why"] in text
    for said in ("a note", "proven: error", "5 kB 2 kB -60.0 %", "1 ms [0.98, 1.02]", "× 0.500"):
        assert said in text, said
    for node in report["network"]["nodes"]:
        assert node["layer"] in text


def test_the_embedded_network_is_that_of_report_json():
    report = small()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page(report))
    assert block and json.loads(block[1]) == report["network"]


def test_the_page_loads_nothing():
    text = page(small())
    assert not re.search(r'(src|href)="(?!#|data:,")', text)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in html.unescape(text) and len(text) < 300_000


def test_names_and_notes_stay_text():
    report = hostile()
    text = page(report)
    assert "<script>window" not in text and "<img" not in text and "49" not in told(text).split()
    assert text.count("</script>") == 2  # the network's data, and the page's own script
    block = re.search(r'id="data">(.*?)</script>', text)
    assert block and json.loads(block[1]) == report["network"]
    assert HOSTILE in told(text)


def test_what_no_page_can_hold_is_replaced():
    strange = "a\x00b\u202ec\ud800d\ne"
    assert readable({strange: [strange, 1, None]}) == {"a�b�c�d\ne": ["a�b�c�d\ne", 1, None]}
    report = small()
    report["notes"] = report["request"]["ignore"] = [strange]
    report["measured"]["after"]["profile"][0]["layer"] = strange
    page(report).encode()


def test_data_in_a_script_block_cannot_end_it():
    data = ["</script>", "<!--", "&amp;", "'", "\u2028"]
    assert not set("<>&'") & set(embedded(data))
    assert json.loads(embedded(data)) == data


def test_a_report_without_measurements_and_network_is_shown_too():
    report = small()
    del report["network"]
    report |= {"measured": None, "check": None, "reach": None, "metrics": None}
    text = told(page(report))
    assert "not proven" in text and "The network" not in text and "Before and after" not in text


def test_what_was_not_measured_is_not_shown_empty():
    report = small()
    for side in ("before", "after"):
        report["measured"][side] |= dict.fromkeys(
            ("latency", "peak_memory", "onnx_bytes", "profile")
        )
    report["measured"]["latency_ratio"] = None
    assert "parameters 1,000 250 -75.0 %" in (text := told(page(report)))
    assert "counted, and not timed" in text
    report |= {"measured": None, "metric": {"name": "accuracy", "before": 1.0, "after": 2.0}}
    assert "accuracy 1 2 +1 neither counted nor timed" in (text := told(page(report)))
    assert "None before" not in text and "the table has the numbers" not in text


def test_a_result_from_python_has_a_page():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    report = document(model, torch.zeros(2, 4), ratio=0.5)
    for key in ("surgeon", "output", "arch", "files", "metric"):
        del report[key]
    assert "Groups" in told(page(report))


def test_time_by_layer_is_shown_only_where_it_was_told():
    report = small()
    text = told(page(report))
    assert "stem Conv 1.5000 0.6000" in text and "head Gemm 0.5000 –" in text
    assert "ReorderInput ReorderInput – 0.1000" in text
    for side in ("before", "after"):
        del report["measured"][side]["profile"]
    assert "Time by layer" not in told(page(report))


def test_a_file_is_called_what_it_is():
    report = small()
    assert "ONNX file 5 kB 2 kB" in told(page(report))
    for side in ("before", "after"):
        report["measured"][side]["runtime"] = "ncnn 1.0"
    assert "file 5 kB 2 kB" in told(page(report)) and "ONNX file" not in told(page(report))


class TestAsked:
    def test_limits_by_count_are_met_or_not(self):
        report = small()
        report["request"] = {"max_flops": "0.5x", "max_params": "200", "criterion": "l2"}
        flops, params = goals(report)
        assert (flops["asked"], flops["reached"], flops["met"]) == ("0.5x", "0.400x, 400", True)
        assert (params["reached"], params["met"]) == ("0.250x, 250", False)

    @pytest.mark.parametrize(("high", "met"), [(0.5, True), (0.501, False)])
    def test_a_measured_limit_is_met_where_the_upper_end_is(self, high: float, met: bool):
        report = small()
        report["request"] = {"max_latency": "1ms"}
        share = {"value": 0.49, "low": 0.48, "high": high}
        seen = {"latency": {"value": 9.8e-4, "low": 9.6e-4, "high": 1e-3, "share": share}}
        one = {"aims": {"latency": 0.5}, "measured": seen, "met": met}
        report["limited"] = {"limits": {"latency": 0.5}, "reached": one, "rounds": [one]}
        (row,) = goals(report)
        assert row["met"] is met and row["reached"] == f"0.490x [0.480, {high:.3f}], 0.98 ms"
        assert rounds(report)[0]["aims"] == "latency 0.500x"
        assert "On the way" in told(page(report))

    def test_a_ratio_has_nothing_to_meet(self):
        (row,) = goals(small())
        assert row["asked"] == "50.0%" and row["met"] is None


class TestLanes:
    def test_a_residual_stream_is_one_line_and_branches_stand_beside_it(self):
        nodes = [{"from": f} for f in ([], [0], [1], [2, 0], [3])]
        rows = lanes(nodes)
        assert [r.lane for r in rows] == [0, 1, 1, 0, 0]
        assert rows[1].through == rows[2].through == ((0, 0),)
        assert set(rows[3].taken) == {(2, 1), (0, 0)} and rows[3].through == ()
        assert [r.goes_on for r in rows] == [True, True, True, True, False]

    def test_every_edge_is_drawn_to_its_end_and_no_two_share_a_lane(self):
        nodes = small()["network"]["nodes"] + []
        nodes = [*nodes, {"from": [0, 3, len(nodes) - 1]}]
        rows = lanes(nodes)
        for at, (node, row) in enumerate(zip(nodes, rows, strict=True)):
            assert {s for s, _ in row.taken} == set(node["from"])
            for source, lane in row.taken:
                for between in rows[source + 1 : at]:
                    assert (source, lane) in between.through
            passing = [lane for _, lane in row.through]
            assert len(passing) == len(set(passing)) and row.lane not in set(passing)


class TestPlots:
    def test_a_plot_says_in_words_what_it_shows_and_has_no_colours_of_its_own(self):
        drawn = costs(
            [
                {"what": "FLOPs", "share": 0.4},
                {"what": "latency", "share": 0.5, "after": (0.49, 0.515)},
            ]
        )
        root = ElementTree.fromstring(drawn)
        assert root.attrib["role"] == "img" and "FLOPs 40.0 %" in root.attrib["aria-label"]
        assert not re.search(r"#[0-9a-f]{6}", drawn) and "var(--after)" in drawn
        assert "<style" not in drawn and "font-family" not in drawn

    def test_bars_are_as_long_as_what_they_show(self):
        drawn = costs([{"what": "FLOPs", "share": 0.25}])
        long = {}
        for path, colour in re.findall(
            r'<path d="([^"]+)"[^>]*style="fill: var\(--(before|after)\)', drawn
        ):
            x = [float(n) for n in re.findall(r"[ML] ([\d.]+)", path)]
            long[colour] = max(x) - min(x)
        assert long["after"] == pytest.approx(0.25 * long["before"], rel=0.02)

    def test_a_limit_that_was_asked_for_is_marked(self):
        report = small()
        assert "var(--mark)" not in page(report).split("</style>")[1]
        report["request"] = {"max_flops": "0.5x"}
        (line,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--mark\)', page(report))
        x = {float(n) for n in re.findall(r"[ML] ([\d.]+)", line)}
        bars = re.findall(r'<path d="([^"]+)"[^>]*style="fill: var\(--before\)', page(report))
        ends = [float(n) for n in re.findall(r"[ML] ([\d.]+)", bars[0])]
        assert max(x) == min(x) == pytest.approx((min(ends) + max(ends)) / 2, abs=1)

    def test_the_same_numbers_give_the_same_plot(self):
        layers = [{"out": [8, 4]}, {"out": [16, 8]}]
        assert widths(layers) == widths(layers)

    def test_names_in_a_plot_are_text(self):
        rows = [{"layer": HOSTILE[-30:] + "$x^2$", "before": 1.0, "after": None}]
        root = ElementTree.fromstring(times(rows))
        assert HOSTILE[-30:] + "$x^2$" in [t.text for t in root.iter("text")]


def test_commands_are_of_this_result_and_quoted():
    report = small()
    report |= {"arch": "file.py:make net", "output": "a b"}
    report["model"]["inputs"] = [
        {"shape": [1, 3, 8, 8], "dtype": "float32"},
        {"shape": [1, 4], "dtype": "int64", "name": "ids"},
    ]
    lines = [shlex.split(c["text"]) for c in commands(report) if c["language"] == "shell"]
    assert ["surgeon", "bench", "small", "a b/slim.onnx", "--arch", "file.py:make net",
            "--input", "1,3,8,8;ids=1,4:int64"] in lines  # fmt: skip
    assert ["surgeon", "check", "small", "a b/slim.pth", "--arch", "file.py:make net"] in lines
    report["limited"] = {"target": {"device": "ssh://pi", "runtime": "ncnn", "threads": 1}}
    (line,) = (c["text"] for c in commands(report) if c["what"].startswith("Time"))
    assert line.split()[-4:] == ["--device", "ssh://pi", "--runtime", "ncnn"]
    assert "slim.pth" in line  # of which bench makes what that runtime reads
    report["files"] = {}
    assert not [c for c in commands(report) if c["language"] == "python"]


NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)), torch.randn(2, 3, 4, 4)
"""


@pytest.mark.usefixtures("quick")
def test_the_commands_of_a_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NET)
    asked = ["shrink", "nets.py:net", "--ratio", "0.5", "--no-measure", "-q", "-o", "it's slim"]
    assert run(asked) == 0
    report = json.loads(Path("it's slim/report.json").read_text())
    assert Path("it's slim/report.html").read_text() == page(report)
    by_name = {c["what"]: c["text"] for c in commands(report)}
    scope: dict = {}
    exec(NET, scope)
    torch.save(scope["net"]()[0].state_dict(), "OTHER")
    before = Path("it's slim/slim.pth").read_bytes()
    for what in ("Export to ONNX", "Prove it again", "Cut the same from other weights"):
        words = shlex.split(by_name[what])
        assert words[0] == "surgeon" and run([*words[1:], "-q"]) == 0, what
    assert Path("it's slim/slim.pth").read_bytes() == before and Path("other-slim").is_dir()
    loaded: dict = {}
    exec(by_name["Load in PyTorch"], loaded)
    ran: dict = {}
    exec(by_name["Run in ONNX Runtime"], ran)
    x = torch.zeros(1, 3, 4, 4)
    assert torch.allclose(loaded["model"](x), torch.from_numpy(ran["outputs"][0]), atol=1e-5)


def test_a_limited_network_is_timed_on_one_example():
    report = small()
    report["model"]["inputs"] = [{"shape": [2, 3, 8, 8], "dtype": "float32"}]
    report["limited"] = {"target": {"device": "local", "runtime": "ort", "threads": 1}}
    (line,) = (c["text"] for c in commands(report) if c["what"].startswith("Time"))
    assert line.split()[-2:] == ["--input", "1,3,8,8"]
    report["model"]["inputs"].append({"shape": [5], "dtype": "int64"})  # they share no batch
    (line,) = (c["text"] for c in commands(report) if c["what"].startswith("Time"))
    assert shlex.split(line)[-1] == "2,3,8,8;5:int64"


def test_widths_hold_the_first_layer_and_no_norm():
    import surgeon
    from surgeon.report.network import network

    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    proposal = surgeon.propose(model, torch.zeros(2, 1, 6, 6), 0.5)
    report = small()
    report["network"] = network(proposal.traced.coupling, proposal.plan)
    shown = page(report).partition('id="widths"')[2]
    names = [x["layer"] for x in report["network"]["layers"] if not x.get("along")]
    assert names == ["0", "2"] and 'scope="row">0<' in shown and 'scope="row">1<' not in shown


def test_the_service_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import io
    import threading
    import urllib.request
    from http.server import ThreadingHTTPServer

    import numpy as np

    from surgeon.export import export_onnx

    model = nn.Linear(4, 2).eval()
    export_onnx(model, tmp_path / "slim.onnx", torch.zeros(2, 4))
    report = {**small(), "output": str(tmp_path), "files": {"slim.onnx": 1}}
    text = next(c["text"] for c in commands(report) if c["what"].startswith("Serve"))
    begun: list[ThreadingHTTPServer] = []
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda self: begun.append(self))
    scope: dict = {}
    exec(text.replace("8000", "0"), scope)  # at a port that is free
    monkeypatch.undo()
    server = begun[0]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        body, x = io.BytesIO(), np.ones((3, 4), np.float32)
        np.savez(body, **{scope["session"].get_inputs()[0].name: x})
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(url, data=body.getvalue(), timeout=30) as answer:
            got = np.load(io.BytesIO(answer.read()))
        want = model(torch.from_numpy(x)).detach().numpy()
        assert np.allclose(got[got.files[0]], want, atol=1e-5)
    finally:
        server.shutdown()
        server.server_close()
