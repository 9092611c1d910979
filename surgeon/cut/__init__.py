"""(model, Plan) -> a smaller model: the user's own module where its code allows it, else its program."""

from surgeon.cut.choose import Cut, NotFollowed, Spared, Terms, as_program, cut, first_unlike
from surgeon.cut.program import NoProgram

__all__ = [
    "Cut",
    "NoProgram",
    "NotFollowed",
    "Spared",
    "Terms",
    "as_program",
    "cut",
    "first_unlike",
]
