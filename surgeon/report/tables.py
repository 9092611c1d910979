"""What is printed, as rich tables: one function a table, from the plain data that JSON holds too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from surgeon.report import text


def table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; numbers go `right`, and only they may not be folded."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column in right
        made.add_column(
            column, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return made


def row(made: Table, *cells: Any) -> None:
    """A row; what is in the cells is text, never markup."""
    made.add_row(*(Text(str(cell)) for cell in cells))


def before_after(report: dict[str, Any]) -> Table:
    """What both networks cost, and the user's own metric."""
    numbers = ("before", "after", "change")
    made = table("", "", *numbers, right=numbers)
    if report["measured"]:
        for cells in text.rows(report["measured"]):
            row(made, *cells)
    metric = report.get("metric")
    if metric:
        before, after = metric["before"], metric["after"]
        row(made, metric["name"], f"{before:.6g}", f"{after:.6g}", f"{after - before:+.4g}")
    return made


def groups_cut(report: dict[str, Any]) -> Table:
    """Every group that may be cut: channels before and after."""
    numbers = ("channels", "kept")
    made = table("groups", "group", "kind", *numbers, "", right=numbers)
    for group in report["groups"]:
        note = "" if group["exact"] else "not exact: what stays changes"
        row(made, group["name"], group["kind"], group["size"], group["kept"], note)
    return made


def groups_left(report: dict[str, Any]) -> Table:
    """Every group that was left alone, and why."""
    made = table("left alone", "group", "kind", "channels", "why", right=("channels",))
    for left in report["left"]:
        row(made, left["name"], left["kind"], left["size"], left["why"])
    return made


def layers(found: list[dict[str, Any]]) -> Table:
    """Every layer with weights."""
    numbers = ("parameters", "share", "FLOPs", "FLOPs share")
    made = table("layers", "layer", "type", "weight", *numbers, right=numbers)
    for layer in found:
        shape = "x".join(map(str, layer["shape"]))
        params, flops = layer["params"], layer["flops"]
        weight = layer["name"], layer["type"], shape, f"{params:,}", f"{layer['params_share']:.1%}"
        cost = ("-", "-") if flops is None else (f"{flops:,}", f"{layer['flops_share']:.1%}")
        row(made, *weight, *cost)
    return made


def groups(found: list[dict[str, Any]]) -> Table:
    """Every group: what it couples, exact or not, cuttable or why not."""
    made = table(
        "groups", "group", "kind", "channels", "couples", "exact", "may be cut", right=("channels",)
    )
    for group in found:
        exact = "yes" if group["inexact"] is None else f"no: {group['inexact']}"
        may = "yes" if group["why_not"] is None else f"no: {group['why_not']}"
        couples = _couples(group["layers"])
        row(made, group["name"], group["kind"], group["size"], couples, exact, may)
    return made


def _couples(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def timings(found: list[dict[str, Any]]) -> Table:
    """Contestants of a bench, the first being what the others are compared with."""
    asked = list(found[0]["percentiles"])
    compared = any(one["output_error"] is not None for one in found)
    numbers = ("median [95 %]", *asked, "first run", "load", "file", "peak memory")
    checked = ("off PyTorch",) if compared else ()
    columns = ("model", "runtime", *numbers, "against the first", *checked, "noise")
    made = table("", *columns, right=(*numbers, *checked))
    for one in found:
        timing, ratio, error = one["latency"], one["ratio"], one["output_error"]
        times = (*one["percentiles"].values(), timing["first_s"], one["load_s"])
        sizes = (one["file_bytes"], one["peak_memory"])
        row(
            made,
            one["model"],
            f"{one['runtime']}, {one['precision']}",
            text.latency(timing),
            *(text.seconds(s) for s in times),
            *(text.size(n) if n is not None else "-" for n in sizes),
            text.compared(ratio) if ratio else "",
            *(["-" if error is None else f"{error:.0e}"] if compared else []),
            one["noise"],
        )
    return made


def profile(one: dict[str, Any], shown: int = 12) -> Table:
    """The slowest layers of a contestant, and what share of all of them each takes; `text.layers` stands above it."""
    layers = one["profile"]
    total = sum(layer["s"] for layer in layers) or 1.0
    made = table("", "layer", "module", "op", "time", "share", right=("time", "share"))
    for layer in sorted(layers, key=lambda layer: -layer["s"])[:shown]:
        cells = layer["layer"], layer.get("module") or "", layer["op"]
        row(made, *cells, text.seconds(layer["s"]), f"{layer['s'] / total:.1%}")
    return made


def expected(report: dict[str, Any]) -> Table:
    """What a plan would cost, by count."""
    numbers = ("before", "after", "change")
    made = table("", "", *numbers, right=numbers)
    before, after = report["expected"]["before"], report["expected"]["after"]
    for key, what in {"params": "parameters", "flops": "FLOPs", "macs": "MACs"}.items():
        change = text.change(before[key], after[key])
        row(made, what, f"{before[key]:,}", f"{after[key]:,}", change)
    return made


def sensitivity(found: dict[str, Any]) -> Table:
    """What is left (top-1), or lost (output error), when one group alone is cut: a column a ratio."""
    heads = [f"-{ratio:.0%}" for ratio in found["how"]["ratios"]]
    top = bool(found["data"]["dense"])
    what = "top-1 when it alone is cut" if top else "output error when it alone is cut"
    made = table(what, "group", "kind", "channels", *heads, right=("channels", *heads))
    for group in found["groups"]:
        cells = [
            f"{100 * p['top1']:.1f}" if top else text.digits(p["error"]) for p in group["points"]
        ]
        name = group["name"] + ("" if group["exact"] else " (mixed)")
        row(made, name, group["kind"], group["size"], *cells)
    return made


def sweep(found: dict[str, Any]) -> Table:
    """The rows of a sweep, the front marked."""
    from surgeon.report.sweep import compared_by, named, quality

    which = compared_by(found)
    numbers = ("limit", "latency", "of the original", "file", "parameters", named(found, which))
    made = table("", *numbers, "on the front", right=numbers)
    for one in found["rows"]:
        if "why" in one:
            row(made, one["limit"], "out of reach", "", "", "", "", "")
            continue
        ratio, told = one["ratio"], quality(one, which)
        row(
            made,
            one["limit"],
            text.seconds(one["latency_s"]["value"]) if one["latency_s"] else "-",
            f"x{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "-",
            text.size(one["size"]) if one["size"] else "-",
            f"{one['params']:,}",
            "" if which == "params" else text.digits(told),
            "yes" if one["front"] else "",
        )
    return made


def ops(found: list[dict[str, Any]]) -> Table:
    """The registered rules."""
    made = table("", "op", "family", "meaning")
    for rule in found:
        row(made, rule["op"], rule["family"], "\n".join(rule["forms"]))
    return made


def environment(found: dict[str, Any]) -> Table:
    """Versions and hardware."""
    made = table("", "", "")
    made.show_header = False
    for key, value in found.items():
        if key == "packages":
            for name, number in value.items():
                row(made, name, number or "not installed")
        else:
            row(made, key, (" ".join(value) or "none") if isinstance(value, list) else value)
    return made


def device(found: dict[str, Any]) -> Table:
    """The facts of one device."""
    made = table("", "", "")
    made.show_header = False
    for name, value in text.facts(found):
        row(made, name, value)
    return made
