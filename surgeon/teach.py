"""A rule that the user gives: what cannot be meant is refused with a hint before it is registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from surgeon.errors import BadInput
from surgeon.rules import RULES, USER
from surgeon.rules.registry import rule as register

_HINT = 'write surgeon.rule("mylib::scale", "n c *, c -> n c *")'


def rule(
    op: str | type,
    text: str,
    *,
    state: tuple[str, ...] | None = None,
    sizes: Mapping[str, str] | None = None,
) -> None:
    """Give an op or a module its rule: `surgeon.rule("mylib::scale", "n c *, c -> n c *")`.

    op: 'namespace::name', as registered with torch.library, now or before the model is traced; or a
    module's class, whose calls are then one op each, whatever its forward does inside. text: factor
    notation, an operand a tensor argument in order, whatever stands between them; a module's own
    tensors follow. state: which of them and in what order, by name (default: parameters, then buffers).
    sizes: which attributes of the module hold sizes, {'channels': 'c'}.

    Raises BadInput where there is a rule already, where the text cannot be read, and for what is neither
    an op's name nor a module's class.
    """
    if not isinstance(op, str) and not (isinstance(op, type) and issubclass(op, nn.Module)):
        raise BadInput(f"a rule is for an op's name or for a module's class, not {op!r}", _HINT)
    if not isinstance(text, str):
        raise BadInput(f"a rule is a line of notation, not {text!r}", _HINT)
    try:
        register(op, text, state=state, sizes=sizes)
    except ValueError as error:
        raise BadInput(str(error), _HINT) from error


def without_op(used: Iterable[str]) -> list[str]:
    """The user's rules for ops that torch does not have and none of the `used` is: 'mylib::nope'."""
    met = {".".join(op.split(".")[:2]) for op in used}
    given = (r.op for r in RULES.values() if r.family == USER and not r.op.startswith("module:"))
    return [op.replace(".", "::", 1) for op in given if op not in met and not _exists(op)]


def _exists(op: str) -> bool:
    namespace, _, name = op.partition(".")
    found: Any = getattr(torch.ops, namespace)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None
