"""Every architecture, one small member of each: what surgeon cuts, proves, trains and exports; torch-pruning beside it.

    python -m benchmarks.coverage --results FILE [--tools surgeon,torch-pruning] [NAME ...]
    python -m benchmarks.coverage --table FILE ...
    python -m benchmarks.coverage --summary FILE ...

Ratio 0.5, L2, no options. Each network of each tool in a process of its own, on one thread: 12 GiB, and
120 s of CPU until it is cut (and again 120 s for each of the checks after that). Results are added to FILE,
one JSON object a line; what FILE already holds is not run again (`--again` runs it anew). `benchmarks/cuts.py`
says what is measured, `benchmarks/coverage_table.py` what is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.watch import Limits, watched

TOOLS = ("surgeon", "torch-pruning")


def run_one(name: str, tool: str, limits: Limits) -> dict[str, Any]:
    """One network of one tool in a fresh process: its facts, and 'failed' where it did not come to the end."""
    command = [sys.executable, "-m", "benchmarks.coverage", "--one", name, "--tool", tool]
    found = watched(command, limits)
    outcome = {"network": name, "tool": tool, **found.facts}
    if found.failed:
        outcome["failed"] = found.failed
    return outcome


def read(*paths: Path) -> list[dict[str, Any]]:
    """Results so far, of one file or several; of two runs of the same, the later."""
    texts = [path.read_text() for path in paths if path.exists()]
    lines = [json.loads(line) for text in texts for line in text.splitlines() if line.strip()]
    return list({(x["network"], x["tool"]): x for x in lines}.values())


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, and add it to the results."""
    path = Path(options.results)
    done = set() if options.again else {(x["network"], x["tool"]) for x in read(path)}
    todo = [
        (n, t) for t in options.tools.split(",") for n in _wanted(options) if (n, t) not in done
    ]
    limits = Limits(options.seconds)
    children: list[subprocess.Popen[bytes]] = []
    if options.jobs > 1:  # plain processes: each takes every jobs-th network
        for k in range(options.jobs):
            mine = [n for n, _ in todo[k :: options.jobs]]
            command = [sys.executable, "-m", "benchmarks.coverage", "--results", str(path), *mine]
            children.append(subprocess.Popen([*command, "--tools", options.tools]))
        for child in children:
            child.wait()
        return
    for name, tool in todo:
        start = time.monotonic()
        outcome = run_one(name, tool, limits)
        with path.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        said = outcome.get("failed") or "fine"
        print(f"{tool} {name}: {said[:160]} ({time.monotonic() - start:.0f} s)", flush=True)


def _wanted(options: argparse.Namespace) -> list[str]:
    from benchmarks.families import names

    every = names(options.families.split(",") if options.families else None)
    return options.networks or every


def one(name: str, tool: str) -> None:
    """The child: stages of one run, each printed as a JSON line when it is done."""
    import torch

    from benchmarks import cuts

    torch.set_num_threads(1)
    for facts in cuts.STAGES[tool](name):
        print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--families", help="torchvision,timm,hf,recurrent,yolo")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--results", default="coverage.jsonl")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--table", metavar="FILE", nargs="+", help="print everything as Markdown")
    parser.add_argument("--summary", metavar="FILE", nargs="+", help="print the summary alone")
    parser.add_argument("--one", metavar="NAME")
    parser.add_argument("--tool", choices=TOOLS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.tool)
    elif options.table:
        from benchmarks.coverage_table import page

        print(page(read(*map(Path, options.table))))
    elif options.summary:
        from benchmarks.coverage_table import by_network, summary

        print(summary(by_network(read(*map(Path, options.summary)))))
    else:
        run_all(options)


if __name__ == "__main__":
    main()
