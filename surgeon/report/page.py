"""report.html: everything that report.json says of a shrink, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.report import text
from surgeon.report.asked import bounds, goals, rounds, settings
from surgeon.report.commands import commands
from surgeon.report.drawn import drawn, hues
from surgeon.report.plots import costs, times, widths
from surgeon.report.quantities import QUANTITIES
from surgeon.report.web import embedded, fill, readable

Report = Mapping[str, Any]
_COSTS = {
    "params": "parameters",
    "flops": "FLOPs",
    "bytes": "weights",
    "onnx_bytes": "",  # by what ran it
    "peak_memory": "peak memory",
}
_LATER = {
    "surgeon": "",
    "output": "",
    "arch": None,
    "reach": None,
    "why": None,
    "check": None,
    "metric": None,
    "files": {},
}  # what a result in Python, or a report of an older surgeon, does not say


def page(report: Report) -> str:
    """The page of report.json's data, as it was read from the file: nothing else is looked at."""
    report = {**_LATER, **readable(report)}
    measured, network = report["measured"], report.get("network")
    given = {
        "title": report["model"].get("source") or "a network",
        "report": report,
        "figures": _figures(report),
        "goals": goals(report),
        "settings": settings(report),
        "rounds": rounds(report),
        "rows": _rows(report),
        "costs": costs(_costs(measured, bounds(report))) if measured else None,
        "bounded": bool(measured and bounds(report)),
        "proof": text.outcome(dict(report)),
        "commands": commands(report),
        "noise": _noise(measured),
        "fixed": [g for g in report["groups"] if g["kept"] == g["size"]],
        **_network(network),
        **_times(measured),
    }
    return fill("report.html", ("common.js", "graph.js"), given)


def _figures(report: Report) -> list[dict[str, str]]:
    """What matters most, large: a number and what it is of."""
    found = []
    for key in ("params", "flops"):
        if key in report["reached"]:
            value = f"{-100 * report['reached'][key]:+.1f} %".replace("-", "−")
            found.append({"value": value, "what": QUANTITIES[key].words})
    measured = report["measured"] or {}
    ratio = (measured.get("latency_ratio") or {}).get("after")
    if ratio:
        said = f"latency, {ratio['verdict']} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        found.append({"value": f"× {ratio['value']:.3f}", "what": said})
    metric, check = report["metric"], report["check"]
    if metric:
        found.append(
            {
                "value": f"{metric['after']:.6g}",
                "what": f"{metric['name']}, was {metric['before']:.6g}",
            }
        )
    said = f"{check['error']:.0e}".replace("0e+00", "0") if check else "none"
    found.append(
        {"value": said, "what": "error of the proof" if check else "proof: it was left out"}
    )
    return found


def _rows(report: Report) -> list[tuple[str, ...]]:
    """The table beside the bars."""
    found: list[tuple[str, ...]] = list(text.rows(report["measured"])) if report["measured"] else []
    metric = report["metric"]
    if metric:
        before, after = metric["before"], metric["after"]
        found.append((metric["name"], f"{before:.6g}", f"{after:.6g}", f"{after - before:+.4g}"))
    return found


def _costs(measured: Mapping[str, Any], limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """The bars: shares of the original, of latency with its interval; and the limits that were asked for."""
    before, after = measured["before"], measured["after"]
    found: list[dict[str, Any]] = [
        {
            "what": what or text.file_of(before["runtime"]),
            "share": after[key] / before[key],
            "limit": limits.get(key),
        }
        for key, what in _COSTS.items()
        if before.get(key) and after.get(key) is not None
    ]
    old, new = before["latency"], after["latency"]
    ratio = (measured["latency_ratio"] or {}).get("after")
    if old and new:
        middle = old["median_s"]
        share = ratio["value"] if ratio else new["median_s"] / middle
        edges = (
            (ratio["low"], ratio["high"])
            if ratio
            else (new["low_s"] / middle, new["high_s"] / middle)
        )
        own = (old["low_s"] / middle, old["high_s"] / middle)
        timed = {"share": share, "before": own, "after": edges, "limit": limits.get("latency")}
        found.append({"what": "latency", **timed})
    return found


def _noise(measured: Mapping[str, Any] | None) -> str:
    """Under what conditions it was timed, or that it was not."""
    if not measured:
        return "neither counted nor timed"
    timing = measured["after"]["latency"]
    if not timing:
        return "counted, and not timed"
    after = measured["after"]
    threads = f"{after['threads']} thread" + "s" * (after["threads"] > 1)
    said = f"{after['runtime']}, {threads}, {timing['runs']} runs of each, in random turns; medians with 95 % intervals"
    busy = timing.get("pressure") or 0.0
    return said + (
        f"; a busy machine: {busy:.0f} % of ten seconds something waited for a CPU"
        if busy > 5
        else ""
    )


def _network(network: Mapping[str, Any] | None) -> dict[str, Any]:
    if not network:
        return {"nodes": [], "groups": [], "hues": [], "layers": [], "widths": None, "data": None}
    layers = [x for x in network["layers"] if "out" in x and not x.get("along")]
    return {
        "nodes": drawn(network),
        "groups": network["groups"],
        "hues": hues(network),
        "layers": layers,
        "widths": widths(layers) if len(layers) > 1 else None,
        "data": embedded(network),
    }


def _times(measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """Time by layer of both, summed over what is one module's; in order of the forward. Where the runtime's line is of no
    module, its own name stands there."""
    before, after = ((measured or {}).get(k, {}).get("profile") or [] for k in ("before", "after"))
    found: dict[str, dict[str, Any]] = {}
    for key, profile in (("before", before), ("after", after)):
        for one in profile:
            name = str(one.get("module") or one["layer"] or one["op"])
            row = found.setdefault(
                name, {"layer": name, "op": one["op"], "before": None, "after": None}
            )
            row[key] = (row[key] or 0.0) + one["s"]
    rows = list(found.values())
    return {"times": rows, "timed": times(rows) if rows else None}
