"""Results of the coverage run as they lie in its files: read, and asked what is short of them and who is slower."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Runs = dict[str, dict[str, Run]]  # network -> tool -> facts
OURS, PEER = TOOLS = ("surgeon", "torch-pruning")
ENOUGH = 0.9  # share of the parameters that should lie in groups that may be cut
# what a stage leaves when it came to its end, in the order of the stages
_ENDS = {
    "cut": "cut",
    "traced": "trace",
    "proven": "check",
    "trains": "train",
    "exported": "export",
}


def read(*paths: Path) -> list[Run]:
    """Results so far, of one file or several; of two runs of the same, the later."""
    texts = [path.read_text() for path in paths if path.exists()]
    lines = [json.loads(line) for text in texts for line in text.splitlines() if line.strip()]
    return list({(x["network"], x["tool"]): x for x in lines}.values())


def by_network(results: Iterable[Run]) -> Runs:
    """Facts by network and tool, in the order of the families."""
    from benchmarks.families import names

    results = list(results)
    order = {name: k for k, name in enumerate(names())}
    runs: Runs = {}
    for run in sorted(results, key=lambda r: order.get(r["network"], len(order))):
        runs.setdefault(run["network"], {})[run["tool"]] = run
    return runs


def by_family(runs: Runs) -> dict[str, Runs]:
    """The same, a part for each family."""
    parts: dict[str, Runs] = {}
    for name, by_tool in runs.items():
        parts.setdefault(name.partition(":")[0], {})[name] = by_tool
    return parts


def missing(runs: Runs) -> dict[str, int]:
    """How many networks of all are left to be run, by tool."""
    from benchmarks.families import names

    left = {tool: sum(tool not in runs.get(name, {}) for name in names()) for tool in TOOLS}
    return {tool: count for tool, count in left.items() if count}


def reasons(run: Run) -> dict[str, str]:
    """Why each stage failed that failed, by stage. A run that was ended says so at the stage it was in."""
    found = {key[:-7]: str(why) for key, why in run.items() if key.endswith(" failed")}
    if run.get("trains") is False:
        found["train"] = f"running statistics moved: {run.get('statistics moved', 'none')}"
    if "nothing to compare" in run:
        found["export"] = (
            f"the file loads, but was compared on nothing: {run['nothing to compare']}"
        )
    if "failed" in run:
        here = next((s for end, s in _ENDS.items() if end not in run and s not in found), "end")
        found[here] = str(run["failed"])
    return found


def short(run: Run) -> dict[str, str]:
    """What is not fully good about a run, with the reason."""
    found = reasons(run)
    if run.get("share", 1.0) < ENOUGH:
        whys = (f"{h['share']:.1%} {h['why']}" for h in run.get("held", ()) if h["share"] > 0.001)
        found[f"{run['share']:.1%} may be cut"] = "; ".join(whys)
    return found


def works(run: Run) -> bool:
    """Whether the network was cut and its forward runs; surgeon's is run by the check."""
    return "runs" in run or "proven" in run


def compared(runs: Runs) -> Iterator[tuple[str, Run, Run]]:
    """Each network that both tools cut so that it runs."""
    for name, run in runs.items():
        if works(run.get(OURS, {})) and works(run.get(PEER, {})):
            yield name, run[OURS], run[PEER]


def slower(runs: Runs) -> list[tuple[str, Run, Run]]:
    """Those of them where surgeon takes longer."""
    return [found for found in compared(runs) if found[1]["seconds"] > found[2]["seconds"]]
