"""Results of benchmarks/accuracy.py as a table, and the aims that they are held against."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# (depth, share of the FLOPs left) -> points of top-1 that may be lost
AIMS = {(20, 0.70): 3.0, (20, 0.51): 10.0, (56, 0.667): 1.5, (56, 0.476): 5.0}


def read(path: Path) -> list[dict[str, Any]]:
    """Rows so far; of two of one name, the later."""
    lines = path.read_text().splitlines() if path.exists() else []
    return list({row["row"]: row for row in map(json.loads, filter(str.strip, lines))}.values())


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown, one part a network and limit; torch-pruning's rows by what they keep, tuned networks last. Rows not run are not there."""
    rows = list(rows)
    lines = [
        "| network, FLOPs asked | method | FLOPs left | top-1 | points lost | aim | CPU seconds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    dense = {r["depth"]: r for r in rows if r["limit"] is None}
    for depth in sorted({r["depth"] for r in rows}):
        if depth in dense:
            lines.append(f"| ResNet-{depth} | dense | 1.000 | {dense[depth]['top1']:.2f} | | | |")
        base = dense.get(depth, {}).get("top1")
        for limit in (x for d, x in AIMS if d == depth):
            part = [r for r in rows if r["depth"] == depth and r["limit"] == limit]
            lines += [_line(row, base) for row in sorted(part, key=_order)]
    return "\n".join(lines)


def _order(row: dict[str, Any]) -> tuple[int, bool, float]:
    return row.get("epochs", 0), not row["method"].startswith("surgeon"), -row.get("top1", 0.0)


def _line(row: dict[str, Any], base: float | None) -> str:
    start = f"| ResNet-{row['depth']}, {row['limit']:g}x | {row['method']} |"
    if "failed" in row:
        why = row["failed"].replace("|", "/").replace("\n", " ")
        return f"{start} fails: {why} | | | | |"
    lost = aim = ""
    if base is not None:
        allowed = AIMS[row["depth"], row["limit"]]
        lost = f"{base - row['top1']:.2f}"
        if not row.get("epochs"):  # the aims are for networks that were not trained
            aim = f"{allowed:g}, {'met' if base - row['top1'] <= allowed else 'missed'}"
    return (
        f"{start} {row['flops']:.3f} | {row['top1']:.2f} | {lost} | {aim} | {row['seconds']:.0f} |"
    )
