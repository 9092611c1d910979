"""report.html in headless Chromium: quiet, searched, clicked, driven by keys, readable in both schemes, printed."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from reports import document, hostile, small
from test_sweep import swept

from surgeon.report.page import page as page_of
from surgeon.report.sweep_page import sweep_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

SCHEMES = ("light", "dark")


class Shown:
    """A page in the browser, and what it said and asked for."""

    def __init__(self, page: Any, path: Path, report: dict[str, Any]) -> None:
        self.page, self.report, self.said, self.asked = page, report, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())
        self.nodes = report.get("network", {}).get("nodes", [])
        self.groups = report.get("network", {}).get("groups", [])

    def rows(self, which: str) -> list[int]:
        """Numbers of the network's rows of a selector."""
        found = self.page.locator(f"#nodes tbody tr{which}")
        return [int(n) for n in found.evaluate_all("rows => rows.map(row => row.dataset.n)")]

    def detail(self) -> str:
        return " ".join(self.page.locator("#detail").inner_text().split())

    def focus(self) -> int | None:
        """The row that has the focus."""
        number = self.page.evaluate("document.activeElement.dataset.n")
        return None if number is None else int(number)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # the sandbox of Chromium does not start for root, as which containers run
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    contexts = []

    def shown(report: dict[str, Any], **how: Any) -> Shown:
        path = tmp_path / f"report-{len(contexts)}.html"
        draw = sweep_page if "rows" in report else page_of
        path.write_text(draw(report), encoding="utf-8")
        contexts.append(browser.new_context(**how))
        return Shown(contexts[-1].new_page(), path, report)

    yield shown
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    """DenseNet-121: more than 400 rows, up to 25 lanes."""
    model = torchvision.models.densenet121(weights=None)
    return document(model, torch.zeros(2, 3, 32, 32), "densenet121", ratio=0.5, check=False)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_quiet_and_asks_for_nothing(show: Any, scheme: str):
    shown = show(small(), color_scheme=scheme)
    shown.page.locator("#nodes tbody tr").first.click()
    shown.page.wait_for_load_state("networkidle")
    assert shown.said == [] and len(shown.asked) == 1


def test_a_click_selects_the_whole_group_and_tells_its_channels(show: Any):
    shown = show(small())
    at = next(i for i, n in enumerate(shown.nodes) if n["layer"] == "two.conv2")
    which = shown.nodes[at]["groups"][0]
    assert which > 0
    group = shown.groups[which]
    shown.page.locator(f'tr[data-n="{at}"]').click()
    members = [i for i, n in enumerate(shown.nodes) if which in n.get("groups", ())]
    assert len(members) > 3
    assert shown.rows('[aria-selected="true"]') == shown.rows(".in") == members
    told = shown.detail()
    assert (
        f"Group {group['name']} channels {group['size']} → {group['kept']} kind {group['kind']}"
        in told
    )
    for role, word in (("makes", "made by"), ("along", "carried by"), ("takes", "taken in by")):
        names = [shown.nodes[n]["layer"] for n in group[role]]
        if names:
            assert " ".join([word, str(len(names)), *names]) in told
    assert f"{group['size']} → {group['kept']}" in shown.page.locator("#said").inner_text()
    shown.page.locator(f'tr[data-n="{at}"]').click()
    assert shown.rows('[aria-selected="true"]') == []


def test_every_row_says_its_channels_as_report_json_does(show: Any):
    shown = show(small())
    cells = shown.page.locator("#nodes td.channels").all_inner_texts()
    for node, cell in zip(shown.nodes, cells, strict=True):
        groups = [shown.groups[g] for g in node.get("groups", ())]
        if groups:
            size, kept = groups[0]["size"], groups[0]["kept"]
            assert cell.strip() == (str(size) if size == kept else f"{size} → {kept}")
        else:
            assert cell.strip() == ""


def test_pointing_at_a_row_says_why_its_group_stayed(show: Any):
    shown = show(small())
    at = next(i for i, n in enumerate(shown.nodes) if n["layer"] == "head")
    shown.page.locator(f'tr[data-n="{at}"]').hover()
    assert "model output" in shown.detail() and "Group head" in shown.detail()
    assert shown.rows('[aria-selected="true"]') == []


def test_layers_are_found_by_their_path(show: Any):
    shown = show(small())
    find, status = shown.page.get_by_label("Find a layer"), shown.page.locator("#found")
    find.fill("TWO.c")
    want = [i for i, n in enumerate(shown.nodes) if n["layer"].startswith("two.c")]
    assert shown.rows(".hit") == want and len(want) == 2
    assert status.inner_text().startswith("1 of 2")
    assert shown.nodes[want[0]]["layer"] in shown.detail()
    find.press("Enter")
    assert status.inner_text().startswith("2 of 2")
    assert shown.nodes[want[1]]["layer"] in shown.detail()
    find.press("Enter")
    assert status.inner_text().startswith("1 of 2")
    find.press("Shift+Enter")
    assert status.inner_text().startswith("2 of 2")
    find.press("Escape")
    assert find.input_value() == "" and shown.rows(".hit") == []
    find.fill("no such")
    assert "no layer" in status.inner_text()


def test_keys_do_what_the_mouse_does(show: Any):
    shown = show(small())
    keys = shown.page.keyboard
    shown.page.get_by_label("Find a layer").focus()
    keys.press("Tab")
    assert shown.focus() == 0
    for _ in range(2):
        keys.press("ArrowDown")
    assert shown.focus() == 2
    keys.press("Enter")
    group = shown.nodes[2]["groups"][0]
    members = [i for i, n in enumerate(shown.nodes) if group in n.get("groups", ())]
    assert shown.rows('[aria-selected="true"]') == members
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert shown.page.evaluate(outline) != "none"
    keys.press("Escape")
    assert shown.rows('[aria-selected="true"]') == []
    keys.press("End")
    assert shown.focus() == len(shown.nodes) - 1
    keys.press("Home")
    keys.press("ArrowUp")
    assert shown.focus() == 0
    keys.press("ArrowDown")
    keys.press("Tab")  # into the panel, whose links lead to rows
    assert shown.page.evaluate("document.activeElement.closest('#detail') !== null")
    to = shown.page.evaluate("document.activeElement.textContent")
    keys.press("Enter")
    assert shown.nodes[shown.focus()]["layer"] == to


def test_everything_with_a_role_has_a_name_and_headings_go_down_in_steps(show: Any):
    shown = show(small())
    nameless = """() => [...document.querySelectorAll('[role=img],[role=region],[role=group],[role=grid],section,aside,nav,input,button')]
      .filter(e => !e.getAttribute('aria-label') && !(e.getAttribute('aria-labelledby') || '').split(' ').some(i => document.getElementById(i))
        && !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.outerHTML.slice(0, 80))"""
    assert shown.page.evaluate(nameless) == []
    twice = "() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.filter((x, i) => ids.indexOf(x) !== i); }"
    assert shown.page.evaluate(twice) == []
    levels = shown.page.locator("h1,h2,h3,h4").evaluate_all(
        "all => all.map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


# The lowest contrast of text with what is behind it (WCAG 2), and that text.
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.9) return c; } return [255, 255, 255, 1]; };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let worst = [99, ''];
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest('script,.hidden,.skip') || !e.getClientRects().length) continue;
    const style = getComputedStyle(e);
    const paint = e.closest('svg') ? style.fill : style.color;
    if (!paint.startsWith('rgb')) continue;
    const [a, b] = [light(parse(paint)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, walk.currentNode.textContent.trim().slice(0, 40)];
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("picked", [False, True], ids=["plain", "selected"])
def test_text_can_be_read(show: Any, scheme: str, picked: bool):
    report = small()
    report["request"] = {
        "max_flops": "0.5x",
        "max_params": "200",
    }  # one that is met, one that is not
    shown = show(report, color_scheme=scheme)
    if picked:
        shown.page.locator("#nodes tbody tr").nth(2).click()
        shown.page.get_by_label("Find a layer").fill("conv1")
    paper = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == (scheme == "dark")
    ratio, text = shown.page.evaluate(CONTRAST)
    assert ratio >= 4.5, text


@pytest.mark.parametrize("wide", [320, 390, 760, 1600])
def test_it_fits_every_width(show: Any, wide: int):
    shown = show(small(), viewport={"width": wide, "height": 800})
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= wide
    shown.page.locator("#nodes tbody tr").nth(3).click()
    assert shown.page.locator("#detail").is_visible()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_chart_shows_by_its_edges_that_there_is_more(show: Any, scheme: str):
    shown = show(small(), viewport={"width": 390, "height": 800}, color_scheme=scheme)
    chart = shown.page.get_by_role("group", name="Widths along the network")
    hidden = chart.evaluate("e => e.scrollWidth - e.clientWidth")
    assert hidden > 100

    def faded() -> list[bool]:
        """Whether nothing but paper is seen at the left edge, and at the right."""
        chart.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        seen = np.asarray(Image.open(io.BytesIO(chart.screenshot())).convert("L"), float)
        return [bool(np.ptp(seen[:, at]) < 30) for at in (0, -1)]

    edge = "e => ['--from', '--to'].map(name => getComputedStyle(e).getPropertyValue(name))"
    assert faded()[1] and chart.evaluate(edge) == ["0px", "36px"]
    chart.evaluate(f"e => e.scrollLeft = {hidden // 2}")
    assert faded() == [True, True]
    chart.evaluate("e => e.scrollLeft = e.scrollWidth")
    assert faded()[0] and chart.evaluate(edge) == ["36px", "0px"]
    shown.page.set_viewport_size({"width": 1200, "height": 800})
    faded()
    assert chart.evaluate(edge) == ["0px", "0px"]  # nothing is hidden


def test_it_prints_whole_on_few_sheets(show: Any, large: dict[str, Any]):
    def sheets(report: dict[str, Any]) -> int:
        shown = show(report)
        printed = shown.page.pdf(format="A4")
        shown.page.emulate_media(media="print")
        cut_off = """() => [...document.querySelectorAll('.tall,.nodes,.wide,pre')]
          .filter(e => e.scrollHeight > e.clientHeight + 2).map(e => e.className)"""
        assert shown.page.evaluate(cut_off) == []
        assert not shown.page.get_by_label("Find a layer").is_visible()
        return len(re.findall(rb"/Type\s*/Page\b", printed))

    assert 2 <= sheets(small()) <= 5
    assert 8 <= sheets(large) <= 20


def test_a_large_network_answers(show: Any, large: dict[str, Any]):
    shown = show(large)
    assert len(shown.rows("")) == len(shown.nodes) > 400
    assert len(page_of(large)) < 1_500_000 and len(json.dumps(large["network"])) < 200_000
    shown.page.get_by_label("Find a layer").fill("denselayer16.conv2")
    (last,) = [i for i in shown.rows(".hit") if "denseblock4" in shown.nodes[i]["layer"]]
    shown.page.get_by_label("Find a layer").press("Shift+Enter")
    row = shown.page.locator(f'tr[data-n="{last}"]')
    box, frame = row.bounding_box(), shown.page.locator("#nodes").bounding_box()
    assert box and frame and frame["y"] <= box["y"] <= frame["y"] + frame["height"]
    row.click()
    which = shown.nodes[last]["groups"][0]
    group = shown.groups[which]
    assert f"channels {group['size']} → {group['kept']}" in shown.detail()
    members = [i for i, n in enumerate(shown.nodes) if which in n.get("groups", ())]
    assert shown.rows('[aria-selected="true"]') == members
    assert shown.said == []


def test_names_that_are_markup_run_nothing_and_are_shown(show: Any):
    report = hostile()
    shown = show(report)
    for row in shown.page.locator("#nodes tbody tr").all():
        row.click()
    assert shown.page.evaluate("window.hit") is None
    assert shown.said == [] and len(shown.asked) == 1
    name = next(n["layer"] for n in shown.nodes if "<script>" in n["layer"])
    shown.page.get_by_label("Find a layer").fill(name)
    assert len(shown.rows(".hit")) == 1
    assert name in shown.page.locator("#detail h3").first.text_content()


def test_a_script_that_got_in_would_not_run(show: Any):
    shown = show(small())
    shown.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hit = 1'}))"
    )
    assert shown.page.evaluate("window.hit") is None


def test_a_command_is_copied(show: Any):
    shown = show(small(), permissions=["clipboard-read", "clipboard-write"])
    button = shown.page.get_by_role("button", name="Copy: Prove it again")
    button.click()
    shown.page.wait_for_function(
        "button => button.textContent !== 'Copy'", arg=button.element_handle()
    )
    assert (
        shown.page.evaluate("navigator.clipboard.readText()")
        == "surgeon check small small-slim/slim.pth"
    )


def test_without_scripts_everything_is_there_to_read(show: Any):
    shown = show(small(), java_script_enabled=False)
    assert shown.page.locator("#nodes tbody tr").count() == len(shown.nodes)
    assert shown.page.locator("#nodes").get_by_text("two.conv1").is_visible()
    assert shown.page.locator("svg.plot").count() == 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing_to_complain_of(show: Any, scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for report in (small(), swept()):
        # axe is a script that the page itself would not run
        shown = show(report, color_scheme=scheme, bypass_csp=True)
        if shown.nodes:
            shown.page.locator("#nodes tbody tr").nth(2).click()
        found = axe.run(shown.page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


def limits(shown: Shown) -> list[str]:
    """Of the rows of the sweep's table that are to be seen, in order."""
    rows = shown.page.locator("#cuts tbody tr:not(.dense):visible th").all_inner_texts()
    return [text.split()[0] for text in rows]


def test_a_sweep_is_sorted_narrowed_and_picked_from(show: Any):
    shown = show(swept())
    page, taken = shown.page, shown.page.locator("#taken")
    assert limits(shown) == ["0.9x", "0.7x", "0.6x", "0.4x"]
    assert taken.inner_text().startswith("0.9x: latency 0.880x [0.870, 0.890]")
    head = page.locator("th[data-key=quality]")
    for order in ("ascending", "descending"):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == order
        up = ["0.4x", "0.7x", "0.6x", "0.9x"]
        assert limits(shown) == (up if order == "ascending" else up[::-1])
    page.get_by_label("Latency at most").fill("0.7")
    assert limits(shown) == ["0.6x", "0.7x", "0.4x"]
    assert "0.6x: latency" in taken.inner_text() and "out/sweep/0.6x/slim.pth" in taken.inner_text()
    page.get_by_label("only the front").check()
    assert limits(shown) == ["0.6x", "0.4x"]
    page.get_by_label("Take 0.4x").check()
    assert "0.4x: latency" in taken.inner_text()
    page.get_by_label("Latency at most").fill("0.1")
    assert limits(shown) == [] and "No cut is taken" in taken.inner_text()
    page.get_by_label("Latency at most").fill("")
    page.get_by_label("only the front").uncheck()
    page.locator("#front-pick-1").click()
    assert "0.7x: latency" in taken.inner_text() and page.get_by_label("Take 0.7x").is_checked()
    assert shown.said == [] and len(shown.asked) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sweep_can_be_read_at_every_width(show: Any, scheme: str):
    shown = show(swept(), color_scheme=scheme, viewport={"width": 390, "height": 800})
    ratio, text = shown.page.evaluate(CONTRAST)
    assert ratio >= 4.5, text
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(re.findall(rb"/Type\s*/Page\b", shown.page.pdf(format="A4"))) <= 2
