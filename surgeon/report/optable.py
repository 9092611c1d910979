"""The registered rules as a table: what `surgeon rules` prints and the README holds."""

from __future__ import annotations

from surgeon.rules import RULES


def op_rows() -> list[dict[str, object]]:
    """One entry an op, by family and name."""
    rules = sorted(RULES.values(), key=lambda rule: (rule.family, rule.op))
    return [{"op": r.op, "family": r.family, "forms": list(r.forms)} for r in rules]


def op_markdown() -> str:
    """The README's table: ops that share a rule share a line."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for rule in sorted(RULES.values(), key=lambda rule: (rule.family, rule.op)):
        together.setdefault((rule.family, rule.forms), []).append(rule.op.removeprefix("aten."))
    lines = ["| family | ops | meaning |", "|---|---|---|"]
    for (family, forms), ops in together.items():
        meaning = "<br>".join(f"`{form}`" if "->" in form else form for form in forms)
        lines.append(f"| {family} | {', '.join(ops)} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
