"""(model, Plan) -> a smaller model: the user's own module where its code allows it, else its program."""

from surgeon.cut.choose import Cut, as_program, cut

__all__ = ["Cut", "as_program", "cut"]
