"""The table of criteria, as the README has it."""

from __future__ import annotations

from surgeon.score import BUILT_IN, CRITERIA


def criteria_markdown() -> str:
    """A row a criterion: what it is, what it reads besides weights, its paper. The user's own are left out."""
    found = [
        (n, k) for m in BUILT_IN for n, k in CRITERIA.items() if k.function.__module__ == m.__name__
    ]
    rows = ["| criterion | a channel's score | reads | paper |", "|---|---|---|---|"]
    rows += [f"| `{n}` | {k.about} | {k.reads or 'weights'} | {k.paper} |" for n, k in found]
    return "\n".join(rows) + "\n"
