"""The coverage run as Markdown: a summary by family, one row a network and tool, every reason.

    python -m benchmarks.coverage_table FILE ...

writes the summary, and what is not fully good, between README's `<!-- coverage -->` marks, and everything
to benchmarks/coverage.md.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import (
    ENOUGH,
    OURS,
    TOOLS,
    Run,
    Runs,
    by_family,
    by_network,
    compared,
    missing,
    read,
    reasons,
    short,
    slower,
    works,
)

START, STOP = "<!-- coverage -->", "<!-- /coverage -->"
_COUNTS: dict[str, Callable[[Run], bool]] = {
    "networks": lambda r: True,
    "traced": lambda r: bool(r.get("traced")),
    "cut": lambda r: "cut" in r,
    "runs": works,
    "proven": lambda r: "proven" in r,
    "trains": lambda r: bool(r.get("trains")),
    "ONNX equal": lambda r: "exported" in r,
    "own class": lambda r: "cut" in r and r.get("way", "module") == "module",
    "90 % may be cut": lambda r: r.get("share", 0.0) >= ENOUGH,
}
_COLUMNS = "network | tool | traced | may be cut | removed | comes back as | proven | trains | ONNX | s | MB"


def page(runs: Runs) -> str:
    """Everything: where and when, the summary, a table for each family, every reason."""
    parts = {
        "": overview(runs),
        **{family: table(part) for family, part in by_family(runs).items()},
        "Under 90 % may be cut, and why": held_back(runs),
        "Every failure": failures(runs),
    }
    return "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in parts.items())


def overview(runs: Runs) -> str:
    """What README shows."""
    lines = [taken(runs), summary(runs), cost(runs), "What is not fully good:\n\n" + shorts(runs)]
    return "\n\n".join(lines)


def taken(runs: Runs) -> str:
    """When, at which commit and on what the numbers were taken, and what is left to run."""
    every = [run for by_tool in runs.values() for run in by_tool.values()]
    at = Counter((r.get("commit", "unknown"), r.get("date", "unknown")) for r in every)
    if len(at) == 1:
        commit, date = next(iter(at))
        lines = [f"Measured at commit {commit} on {date}."]
    else:
        said = (f"{commit} on {date} ({count} runs)" for (commit, date), count in at.most_common())
        lines = [f"Measured at commits {', '.join(said)}."]
    lines += sorted({r["on"] + "." for r in every if "on" in r})
    left = missing(runs)
    if left:
        said = ", ".join(f"{count} for {tool}" for tool, count in left.items())
        lines.append(f"The run is not complete: networks left: {said}.")
    return "\n".join(lines)


def summary(runs: Runs) -> str:
    """Counts, medians and maxima: a row for each family and tool."""
    lines = [
        f"| | tool | {' | '.join(_COUNTS)} | s, median (worst) | MB, median (worst) |",
        f"|---|---|{'--:|' * (len(_COUNTS) + 2)}",
    ]
    for family, part in {"all": runs, **by_family(runs)}.items():
        for tool in TOOLS:
            mine = [r[tool] for r in part.values() if tool in r]
            if mine:
                name = family if tool == OURS else ""
                cells = [str(sum(test(r) for r in mine)) for test in _COUNTS.values()]
                cells += [_spread(mine, "seconds", 2), _spread(mine, "mb", 0)]
                lines.append(f"| {name} | {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost(runs: Runs) -> str:
    """surgeon's median and worst, by name, and where it is slower than torch-pruning."""
    ours = {name: r[OURS] for name, r in runs.items() if "cut" in r.get(OURS, {})}
    if not ours:
        return "Nothing was cut."
    slowest = max(ours, key=lambda n: ours[n]["seconds"])
    largest = max(ours, key=lambda n: ours[n]["mb"])
    middle = median(r["seconds"] for r in ours.values())
    lines = [
        f"From a model to its cut copy surgeon takes {middle:.2f} s (median), at worst "
        f"{ours[slowest]['seconds']:.2f} s ({slowest}) and {ours[largest]['mb']:.0f} MB ({largest})."
    ]
    found, both = slower(runs), len(list(compared(runs)))
    lines.append(
        f"It is slower than torch-pruning on {len(found)} of the {both} networks that both cut so that they run"
        + (": " if found else ".")
    )
    said = (f"{n} ({a['seconds']:.2f} s, {b['seconds']:.2f} s)" for n, a, b in found)
    return "\n".join(lines) + ", ".join(said) + ("." if found else "")


def shorts(runs: Runs) -> str:
    """One row for each thing that surgeon does not do fully."""
    rows = [
        f"| {name} | {what} | {_plain(why)} |"
        for name, by_tool in runs.items()
        for what, why in short(by_tool.get(OURS, {})).items()
    ]
    return "\n".join(["| network | short | why |", "|---|---|---|", *rows]) if rows else "nothing."


def table(runs: Runs) -> str:
    """Two rows a network: surgeon's, torch-pruning's."""
    lines = [f"| {_COLUMNS} |", "|---|---|---|--:|--:|---|---|---|---|--:|--:|"]
    for name, by_tool in runs.items():
        for tool in TOOLS:
            if tool in by_tool:
                shown = name.partition(":")[2] if tool == OURS or OURS not in by_tool else ""
                lines.append(f"| {shown} | {tool} | {' | '.join(_cells(by_tool[tool]))} |")
    return "\n".join(lines)


def held_back(runs: Runs) -> str:
    """Reasons by share, for each network of which surgeon may cut less than nine tenths."""
    ours = [r[OURS] for r in runs.values() if r.get(OURS, {}).get("share", 1.0) < ENOUGH]
    lines = [
        f"- {run['network']}, {held['share']:.1%}: {held['why']} ({', '.join(held['states'])})"
        for run in ours
        for held in run["held"]
        if held["share"] >= 0.001
    ]
    return "\n".join(lines) or "None."


def failures(runs: Runs) -> str:
    """Every reason why something is missing, in words."""
    lines = [
        f"- {tool}, {name}, {stage}: {_plain(why)}"
        for name, by_tool in runs.items()
        for tool, run in by_tool.items()
        for stage, why in reasons(run).items()
    ]
    return "\n".join(lines) or "None."


def _cells(run: Run) -> list[str]:
    failed = reasons(run)
    if "cut" not in run:
        why = _plain(failed.get("cut", "failed"))[:60]
        return ["yes" if run.get("traced") else "no", "", "", f"fails: {why}", *[""] * 5]
    return [
        "yes" if run.get("traced") else "no",
        f"{run['share']:.1%}" if "share" in run else "",
        f"{run['removed']:.1%}",
        "program" if run.get("way") == "program" else "own class",
        f"{run['error']:.0e}" if "proven" in run else _verdict(run, failed),
        {True: "yes", False: "no"}.get(run.get("trains"), "fails" if "train" in failed else "-"),  # type: ignore[arg-type]
        _onnx(run, failed),
        f"{run['seconds']:.2f}",
        f"{run['mb']:.0f}",
    ]


def _onnx(run: Run, failed: dict[str, str]) -> str:
    if "exported" in run:
        return f"{run['onnx error']:.0e}"
    return "empty" if "written" in run else "fails" if "export" in failed else "-"


def _verdict(run: Run, failed: dict[str, str]) -> str:
    """What is said where nothing was proven."""
    if "forward" in failed:
        return "does not run"
    return "no" if failed.get("check", "").startswith("CheckFailed") else "not checked"


def _spread(runs: list[Run], key: str, digits: int) -> str:
    found = [r[key] for r in runs if key in r]
    return f"{median(found):.{digits}f} ({max(found):.{digits}f})" if found else ""


def _plain(why: str) -> str:
    """A reason that fits a cell."""
    why = re.sub(r"\x1b\[\d*m", "", why)  # colours
    why = re.sub(r"(?:/[\w.-]+)+/(?=\.?slim)", "", why)  # folders of the machine that it was run on
    return " ".join(why.replace("|", "/").replace("<", "(").replace(">", ")").split())[:300]


def write(runs: Runs) -> None:
    """README's part and benchmarks/coverage.md."""
    readme = ROOT / "README.md"
    head, rest = readme.read_text(encoding="utf-8").split(START)
    tail = rest.split(STOP)[1]
    readme.write_text(f"{head}{START}\n{overview(runs)}\n{STOP}{tail}", encoding="utf-8")
    title = "# One small member of every family\n\nWritten by `python -m benchmarks.coverage_table FILE`; ratio 0.5, no options."
    everything = f"{title} What a line of figures means: `benchmarks/cuts.py`.\n\n{page(runs)}\n"
    (ROOT / "benchmarks" / "coverage.md").write_text(everything, encoding="utf-8")


if __name__ == "__main__":
    write(by_network(read(*map(Path, sys.argv[1:]))))
