"""What each op means for channels. Importing this package registers every rule."""

from surgeon.rules import (
    backward,
    contract,
    indexing,
    matrix,
    movement,
    normalize,
    pointwise,
    reduce,
    select,
    strided,
    windows,
)
from surgeon.rules.notation import Binding, Notation, Term, parse, spread
from surgeon.rules.registry import RULES, USER, Form, Rule, Site, factor, lookup

__all__ = [
    "RULES", "USER", "Binding", "Form", "Notation", "Rule", "Site", "Term",
    "backward", "contract", "factor", "indexing", "lookup", "matrix", "movement", "normalize", "parse", "pointwise", "reduce", "select",
    "spread", "strided", "windows",
]  # fmt: skip
