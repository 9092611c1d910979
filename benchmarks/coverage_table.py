"""The coverage run as Markdown: a summary of both tools, one row a network, and every failure's reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

Run = dict[str, Any]
Runs = dict[str, dict[str, Run]]  # network -> tool -> facts
OURS, PEER = "surgeon", "torch-pruning"


def page(results: Iterable[Run]) -> str:
    """Summary, table, what holds parameters back, and every failure's reason."""
    runs = by_network(results)
    parts = {
        "": summary(runs),
        "Networks": table(runs),
        "What holds parameters back, where under 90 % may be cut": held_back(runs),
        "Slower than torch-pruning where that is proven": "\n".join(_slower_ones(runs)),
        "Failures": failures(runs),
    }
    return "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in parts.items())


def by_network(results: Iterable[Run]) -> Runs:
    """Facts by network and tool."""
    runs: Runs = {}
    for run in results:
        runs.setdefault(run["network"], {})[run["tool"]] = run
    return runs


def held_back(runs: Runs) -> str:
    """Reasons by share, for each network of which less than nine tenths may be cut."""
    ours = [r[OURS] for r in runs.values() if r.get(OURS, {}).get("share", 1.0) < 0.9]
    return "\n".join(
        f"- {run['network']}, {held['share']:.1%}: {held['why']} ({', '.join(held['states'])})"
        for run in ours
        for held in run["held"]
        if held["share"] >= 0.001
    )


def summary(runs: Runs) -> str:
    """Counts, medians and maxima, a column for each tool."""
    ours = [r[OURS] for r in runs.values() if OURS in r]
    peer = [r[PEER] for r in runs.values() if PEER in r]
    lines = ["| of all networks | surgeon | torch-pruning 1.6.1 |", "|---|--:|--:|"]
    for what, count in _COUNTS.items():
        lines.append(f"| {what} | {_counted(ours, count)} | {_counted(peer, count)} |")
    for what, key in (
        ("seconds, model to cut copy", "seconds"),
        ("MB above the model's own", "mb"),
    ):
        lines.append(f"| {what}: median (max) | {_spread(ours, key)} | {_spread(peer, key)} |")
    shares = [r["share"] for r in ours if "share" in r]
    if shares:
        few = sum(s < 0.9 for s in shares)
        said = f"median {median(shares):.1%}, under 90 % in {few}"
        lines.append(f"| parameters in groups that may be cut | {said} | |")
    ways = [sum(r.get("way") == w for r in ours) for w in ("module", "program")]
    lines.append(f"| comes back as its own class / as a program | {ways[0]} / {ways[1]} | |")
    lines.append(f"| slower than torch-pruning where that is proven | {_slower(runs)} | |")
    return "\n".join(lines)


def table(runs: Runs) -> str:
    """One row a network."""
    lines = [
        "| network | may be cut | removed | comes back as | proven | trains | ONNX | s | MB "
        "| torch-pruning | s | MB |",
        "|---|--:|--:|---|--:|---|--:|--:|--:|---|--:|--:|",
    ]
    for name, by_tool in runs.items():
        ours, peer = by_tool.get(OURS, {}), by_tool.get(PEER, {})
        cells = [
            name,
            _share(ours, "share"),
            _share(ours, "removed"),
            {"module": "own class"}.get(ours.get("way", ""), ours.get("way", "")),
            _error(ours, "error", "check failed"),
            {True: "yes", False: "no"}.get(ours.get("trains"), "fails" if ours else ""),  # type: ignore[arg-type]
            _error(ours, "onnx error", "export failed"),
            *_cost(ours),
            _verdict(peer),
            *_cost(peer),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def failures(runs: Runs) -> str:
    """Every reason why something is missing, in words."""
    every = [run for by_tool in runs.values() for run in by_tool.values()]
    return "\n".join(line for run in every for line in _reasons(run))


def _reasons(run: Run) -> Iterable[str]:
    for key, what in _STAGES.items():
        if key in run:
            yield f"- {run['tool']}, {run['network']}, {what}: {str(run[key])[:200]}"


_STAGES = {
    "failed": "cut",
    "check failed": "check",
    "train failed": "train",
    "export failed": "export",
}
_COUNTS: dict[str, Callable[[Run], bool]] = {
    "networks": lambda r: True,
    "cut without an error": lambda r: "cut" in r,
    "forward runs": lambda r: "runs" in r or "proven" in r,
    "proven: equals the masked original": lambda r: "proven" in r,
    "trains (a step: finite, batch norm moves)": lambda r: bool(r.get("trains")),
    "exported to ONNX, equal in ONNX Runtime": lambda r: "exported" in r,
}
_NOT_TRIED = {
    "trains (a step: finite, batch norm moves)",
    "exported to ONNX, equal in ONNX Runtime",
}


def _counted(runs: list[Run], test: Callable[[Run], bool]) -> str:
    what = next(w for w, t in _COUNTS.items() if t is test)
    if what in _NOT_TRIED and runs and runs[0]["tool"] == PEER:
        return ""
    return str(sum(test(r) for r in runs))


def _spread(runs: list[Run], key: str) -> str:
    found = [r[key] for r in runs if key in r]
    digits = 2 if key == "seconds" else 0
    return f"{median(found):.{digits}f} ({max(found):.{digits}f})" if found else ""


def _slower(runs: Runs) -> str:
    both = sum(OURS in r and "proven" in r.get(PEER, {}) for r in runs.values())
    return f"{len(list(_slower_ones(runs)))} of {both}"


def _slower_ones(runs: Runs) -> Iterator[str]:
    for name, run in runs.items():
        ours, peer = run.get(OURS), run.get(PEER, {})
        if ours is None or "proven" not in peer:
            continue
        if "cut" not in ours:
            yield f"- {name}: not cut, {peer['seconds']:.2f} s"
        elif ours["seconds"] > peer["seconds"]:
            yield f"- {name}: {ours['seconds']:.2f} s, {peer['seconds']:.2f} s"


def _share(run: Run, key: str) -> str:
    return f"{run[key]:.1%}" if key in run else ""


def _error(run: Run, key: str, failed: str) -> str:
    if key in run:
        return f"{run[key]:.0e}"
    return "fails" if failed in run else ""


def _cost(run: Run) -> list[str]:
    if "seconds" not in run:
        return ["", ""]
    return [f"{run['seconds']:.2f}", f"{run['mb']:.0f}"]


def _verdict(run: Run) -> str:
    if not run:
        return ""
    if "proven" in run:
        return f"proven, -{run['removed']:.0%}"
    if "runs" in run:
        return f"runs, not proven, -{run['removed']:.0%}"
    return ("cut, but fails: " if "cut" in run else "fails: ") + str(run.get("failed", ""))[
        :60
    ].replace("|", "/")
