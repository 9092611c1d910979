"""Several limits tried on one network: sweep.json's data, which of its rows are on the front, and sweep.html.

    {surgeon, model: {source, ...}, arch, quantity, output, target, dense: {latency_s, size, params, flops, quality}, metric, rows, notes}

quantity: what was limited ('latency', 'memory', 'size', 'flops', 'params'); target: where it was timed; metric: the name of
the user's own, or null. A row is

    {limit, folder, met, ratio: {value, low, high}, latency_s: {value, low, high}, size, params, flops, quality: {accuracy?,
     output_error?, metric?}, front}      with a cut, whose whole report lies in `folder`, relative to `output`
    {limit, why}                   where the limit could not be reached

latency_s in seconds, ratio of the original's, size in bytes of the file that is run; what was not measured is null. Shares
and errors as in report.json: accuracy is top-1 in [0, 1], output_error of the outputs' variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from surgeon.report.asked import goals

Row = dict[str, Any]
# What is compared, best first: the first that every row has. Output errors are better where lower; a metric of the
# user's own is taken to be better where higher.
QUALITIES = {"metric": 1, "accuracy": 1, "output_error": -1, "params": 1}
NAMES = {
    "metric": "metric",
    "accuracy": "top-1",
    "output_error": "output error",
    "params": "parameters kept",
}


def row(limit: str, folder: str, report: Mapping[str, Any]) -> Row:
    """A row of sweep.json from the report.json of a cut that was made for this limit."""
    measured = report["measured"]
    if measured is None:
        return unreached(limit, "it was cut, but not measured: see its report")
    after = measured["after"]
    ratio = (measured["latency_ratio"] or {}).get("after")
    found = {
        "limit": limit,
        "folder": folder,
        "met": all(goal["met"] is not False for goal in goals(report)),
        "ratio": {k: ratio[k] for k in ("value", "low", "high")} if ratio else None,
        "latency_s": _latency(after),
        "size": after["onnx_bytes"],
        "params": after["params"],
        "flops": after["flops"],
    }
    return {**found, "quality": _quality(report, "after")}


def unreached(limit: str, why: str) -> Row:
    """The row of a limit that could not be reached."""
    return {"limit": limit, "why": why}


def sweep(
    report: Mapping[str, Any],
    of: tuple[str, str],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """sweep.json's data. report: of any of the cuts, for what is said of the original; of: the quantity that was limited,
    and the folder that holds all; rows: from `row` and `unreached`."""
    before = report["measured"]["before"]
    dense = {
        "latency_s": _latency(before),
        "size": before["onnx_bytes"],
        "params": before["params"],
        "flops": before["flops"],
        "quality": _quality(report, "before"),
    }
    model = {key: report["model"].get(key) for key in ("source", "inputs", "fingerprint")}
    found = {
        "surgeon": report.get("surgeon"),
        "model": model,
        "arch": report.get("arch"),
        "quantity": of[0],
        "output": of[1],
        "target": {"runtime": before["runtime"], "threads": before["threads"]}
        | ((report.get("limited") or {}).get("target") or {}),
        "dense": dense,
        "metric": (report.get("metric") or {}).get("name"),
        "rows": list(rows),
        "notes": list(notes),
    }
    beaten = zip(rows, front(found), strict=True)
    return {**found, "rows": [r if "why" in r else {**r, "front": on} for r, on in beaten]}


def compared_by(found: Mapping[str, Any]) -> str:
    """By which quality the rows are compared: the first that all cuts have; parameters kept where none is told."""
    cuts = [r for r in found["rows"] if "why" not in r]
    return next((q for q in QUALITIES if all(quality(r, q) is not None for r in cuts)), "params")


def named(found: Mapping[str, Any], which: str) -> str:
    """A quality in words; the user's metric by its own name."""
    return (which == "metric" and found.get("metric")) or NAMES[which]


def quality(one: Mapping[str, Any], which: str) -> float | None:
    """A row's number for a quality."""
    return one["params"] if which == "params" else one["quality"].get(which)


def speed(one: Mapping[str, Any]) -> float | None:
    """Latency as a share of the original's; None where it was not timed."""
    return one["ratio"]["value"] if one.get("ratio") else None


def front(found: Mapping[str, Any]) -> list[bool]:
    """For each row whether nothing is as fast and better, or as good and faster: no other cut, nor the original. Rows that were
    not timed are on none."""
    which = compared_by(found)
    points = [_point(one, which) for one in found["rows"]]
    dense = found.get("dense")
    whole = None if dense is None else _point({**dense, "ratio": {"value": 1.0}}, which)
    rivals = [p for p in (*points, whole) if p is not None]
    return [p is not None and not any(_beats(q, p) for q in rivals) for p in points]


def best(found: Mapping[str, Any], at_most: float = inf) -> int | None:
    """The row to take: of those on the front that take at most this share of the original's time the best; None where there is none."""
    which = compared_by(found)
    points = [(_point(one, which), at) for at, one in enumerate(found["rows"])]
    on = front(found)
    fits = [(p[1], -p[0], at) for p, at in points if p is not None and on[at] and p[0] <= at_most]
    return max(fits)[2] if fits else None


def _point(one: Mapping[str, Any], which: str) -> tuple[float, float] | None:
    """(time, how good: higher is better); None where one of them is not known."""
    time = None if "why" in one else speed(one)
    value = None if "why" in one else quality(one, which)
    return None if time is None or value is None else (time, QUALITIES[which] * value)


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def _latency(of: Mapping[str, Any]) -> dict[str, float] | None:
    timing = of["latency"]
    if not timing:
        return None
    return {"value": timing["median_s"], "low": timing["low_s"], "high": timing["high_s"]}


def _quality(report: Mapping[str, Any], side: str) -> dict[str, float]:
    """Accuracy, error of the outputs and the user's metric, where they were had. side: 'before' or 'after'."""
    metrics, metric = report.get("metrics") or {}, report.get("metric")
    error = metrics.get("reconstruction_error")
    found = {"metric": metric[side]} if metric and side in metric else {}
    if metrics.get("accuracy"):
        found["accuracy"] = metrics["accuracy"][side]["top1"]
    if error is not None:
        found["output_error"] = error if side == "after" else 0.0
    return found
