"""What the README shows is what the tool does: its op table, its commands, its API."""

import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import surgeon
from surgeon.report.criteria import criteria_markdown
from surgeon.report.optable import op_markdown
from surgeon.rules.registry import forget

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(start: str, stop: str) -> str:
    return README.split(start, 1)[1].split(stop, 1)[0].strip()


def test_the_op_table_is_the_registry():
    assert between("<!-- ops -->", "<!-- /ops -->") == op_markdown().strip()


def test_every_criterion_is_in_its_table_with_its_paper_and_what_it_reads():
    table = between("<!-- criteria -->", "<!-- /criteria -->")
    assert table == criteria_markdown().strip()


def test_every_file_that_the_commands_name_exists():
    named = re.findall(r"(?:models|benchmarks)/[\w/]+\.(?:pyt?h?|pth)", README)
    assert {"models/digits_resnet.pth", "benchmarks/speed.py"} <= set(named)
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_every_public_name_of_the_examples_exists():
    used = set(re.findall(r"surgeon\.([a-zA-Z_]+)[(.]", between("## From Python", "## How it")))
    assert {"shrink", "save", "load", "trace", "check"} <= used
    assert [name for name in used if not hasattr(surgeon, name)] == []


def test_the_module_that_is_given_a_rule_is_cut():
    code = between("<!-- module rule -->\n```python", "```")
    scope: dict[str, Any] = {}
    try:
        exec(code, scope)
    finally:
        forget(scope["Gain"])
    result = scope["r"]
    assert result.model[1].channels == 4
    assert result.check is not None and result.check.error <= result.check.tolerance


def test_the_loop_of_ones_own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    torch.manual_seed(3)  # the loop is a short one, and what it begins from is drawn
    exec(between("<!-- pruner loop -->\n```python", "```"), scope)
    assert scope["pruner"].done
    assert scope["pruner"].model[0].out_channels == 8
    assert scope["accuracy"] > 0.8
    assert surgeon.load("slim.pth")(scope["pixels"][:3]).shape == (3, 10)


def test_ci_runs_the_test_command_that_users_are_given():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    awk = re.search(r"tests=\$\((awk '.*' README\.md)\)", script)
    assert awk is not None
    out = subprocess.run(["bash", "-c", awk.group(1)], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip().endswith("-m pytest -q -n 2 --dist worksteal")
    assert out.stdout.strip() in README


def test_no_placeholder_is_left():
    assert re.findall(r"\b[A-Z]+_TABLE\b", README) == []
