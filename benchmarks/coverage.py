"""Every architecture, one small member of each: what surgeon cuts, proves, trains and exports; torch-pruning beside it.

    python -m benchmarks.coverage --results FILE [--families torchvision,timm] [--tools surgeon] [NAME ...]
    python -m benchmarks.coverage --table FILE ...      print everything
    python -m benchmarks.coverage --summary FILE ...    print what README shows
    python -m benchmarks.coverage_table FILE ...        write both where they belong

Ratio 0.5, L2, no options. Each network of each tool in a process of its own, on one thread: 12 GiB, and
120 s of CPU to build it, to cut it, and for each of the checks after that. Results are added to FILE,
one JSON object a line; what FILE already holds is not run again (`--again` runs it anew). `benchmarks/cuts.py`
says what is measured, `benchmarks/coverage_table.py` what is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import TOOLS, by_network, read
from benchmarks.watch import Limits, watched


def run_one(name: str, tool: str, limits: Limits) -> dict[str, Any]:
    """One network of one tool in a fresh process: its facts, and 'failed' where it did not come to the end."""
    command = [sys.executable, "-m", "benchmarks.coverage", "--one", name, "--tool", tool]
    found = watched(command, limits)
    outcome = {"network": name, "tool": tool, **found.facts}
    if found.failed:
        outcome["failed"] = found.failed
    return outcome


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, and add it to the results."""
    path = Path(options.results)
    tools = options.tools.split(",")
    done = set() if options.again else {(x["network"], x["tool"]) for x in read(path)}
    todo = [(n, t) for n in _wanted(options) for t in tools if (n, t) not in done]
    if options.jobs > 1:
        _share_out(options, list(dict.fromkeys(n for n, _ in todo)))
        return
    limits, origin = Limits(options.seconds), _origin()
    for name, tool in todo:
        start = time.monotonic()
        outcome = {**run_one(name, tool, limits), **origin}
        with path.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        said = next((f"{k}: {v}" for k, v in outcome.items() if "failed" in k), "fine")
        print(f"{tool} {name}: {said[:160]} ({time.monotonic() - start:.0f} s)", flush=True)


def _share_out(options: argparse.Namespace, networks: list[str]) -> None:
    """Plain processes: each takes every jobs-th network."""
    command = [sys.executable, "-m", "benchmarks.coverage", "--results", options.results]
    command += ["--tools", options.tools, "--seconds", str(options.seconds)]
    command += ["--again"] if options.again else []
    parts = (networks[k :: options.jobs] for k in range(options.jobs))
    children = [subprocess.Popen([*command, *part]) for part in parts if part]
    for child in children:
        child.wait()


def _origin() -> dict[str, str]:
    """The commit (a + where files differ from it), the day and the machine."""
    from benchmarks.networks import environment

    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "--short", "HEAD") or "unknown"
    changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit + ("+" if changed else ""),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "on": environment(),
    }


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _wanted(options: argparse.Namespace) -> list[str]:
    from benchmarks.families import names

    return options.networks or names(options.families.split(",") if options.families else None)


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
    parser.add_argument("--families", help="torchvision,timm,hf,recurrent,yolo,detectors")
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

        print(page(by_network(read(*map(Path, options.table)))))
    elif options.summary:
        from benchmarks.coverage_table import overview

        print(overview(by_network(read(*map(Path, options.summary)))))
    else:
        run_all(options)


if __name__ == "__main__":
    main()
