"""What was asked against what was reached, from report.json's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgeon.budget.limit import COUNTED, MEASURED, Limit
from surgeon.report import text
from surgeon.report.quantities import QUANTITIES

Report = Mapping[str, Any]
Row = dict[
    str, Any
]  # what, asked, reached, met: True, False, or None where there is nothing to meet

_LIMITS = tuple(f"max_{what}" for what in QUANTITIES)
_GOALS = ("ratio", "ratio_for", "threshold", "dead", "remove", *_LIMITS)


def goals(report: Report) -> list[Row]:
    """A row for each thing that was asked for."""
    return [*_shares(report), *_limits(report)]


def settings(report: Report) -> list[tuple[str, str]]:
    """The other options of the run: (name, value)."""
    rest = {k: v for k, v in report["request"].items() if k not in _GOALS}
    return [(key.replace("_", " "), _said(value)) for key, value in rest.items()]


def _shares(report: Report) -> Iterator[Row]:
    request, reached = report["request"], report["reached"]
    gone = f"{reached['channels']:.1%} of the channels that may go"
    if "ratio" in request:
        yield _row("channels removed", f"{request['ratio']:.1%}", gone)
    for glob, ratio in request.get("ratio_for", {}).items():
        groups = [g for g in report["groups"] if g["name"] == glob]
        own = f"{1 - groups[0]['kept'] / groups[0]['size']:.1%}" if groups else ""
        yield _row(f"channels of {glob} removed", f"{ratio:.1%}", own)
    if "threshold" in request:
        yield _row("scores below", f"{request['threshold']:g}", gone)
    if request.get("dead"):
        yield _row("what is dead removed", "all of it", gone)
    if request.get("remove"):
        count = sum(len(v) for v in request["remove"].values())
        yield _row("channels by hand", f"{count} of {len(request['remove'])} layers", gone)


def _limits(report: Report) -> Iterator[Row]:
    request, measured = report["request"], report["measured"]
    for what in COUNTED if measured else ():
        if f"max_{what}" in request:
            key = QUANTITIES[what].key
            own = (measured["before"][key], measured["after"][key])
            yield _counted(what, str(request[f"max_{what}"]), own)
    for what in MEASURED:
        if f"max_{what}" in request:
            yield _measured(report, what, str(request[f"max_{what}"]))


def _counted(what: str, asked: str, own: tuple[int, int]) -> Row:
    said = f"{own[1] / max(own[0], 1):.3f}x, {text.amount(what, own[1])}"
    bound = Limit.parse(asked, f"max_{what}").of(own[0])
    return _row(f"{QUANTITIES[what].words} at most", asked, said, own[1] <= bound)


def _measured(report: Report, what: str, asked: str) -> Row:
    """Met where the upper end of what was measured is within the limit."""
    name = QUANTITIES[what].words
    found = (report.get("limited") or {}).get("reached", {}).get("measured", {}).get(what)
    if found is None:
        return _row(
            f"{name} at most", asked, "of the run that made the plan; not searched for here"
        )
    share, said = found["share"], text.amount(what, found["value"])
    between = f" [{share['low']:.3f}, {share['high']:.3f}]" if share["low"] != share["high"] else ""
    met = share["high"] <= report["limited"]["limits"][what]
    return _row(f"{name} at most", asked, f"{share['value']:.3f}x{between}, {said}", met)


def bounds(report: Report) -> dict[str, float]:
    """Limits as shares of the original's, by the name that `measured` has for what they bound."""
    request, measured = report["request"], report["measured"]
    found = {}
    for what in COUNTED if measured else ():
        if f"max_{what}" in request:
            own, key = Limit.parse(str(request[f"max_{what}"]), f"max_{what}"), QUANTITIES[what].key
            found[key] = own.share(max(measured["before"][key], 1))
    for what, share in (report.get("limited") or {}).get("limits", {}).items():
        found[QUANTITIES[what].key] = share
    return found


def rounds(report: Report) -> list[dict[str, Any]]:
    """What was aimed at and measured on the way to a limit, one cut a row; shares of the original."""
    found = []
    for number, one in enumerate((report.get("limited") or {}).get("rounds", ()), 1):
        own = {k: v["share"] for k, v in one["measured"].items() if k in one["aims"]}
        aims = ", ".join(f"{k} {v:.3f}x" for k, v in one["aims"].items())
        seen = ", ".join(
            f"{k} {v['value']:.3f}x [{v['low']:.3f}, {v['high']:.3f}]" for k, v in own.items()
        )
        found.append({"number": number, "aims": aims, "measured": seen, "met": one["met"]})
    return found


def _row(what: str, asked: str, reached: str, met: bool | None = None) -> Row:
    return {"what": what, "asked": asked, "reached": reached, "met": met}


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
    )
