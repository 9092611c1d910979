"""(model, Plan) -> a smaller model: the user's own module where its code allows it, else its program."""

from surgeon.cut.choose import Cut, NotFollowed, as_program, cut

__all__ = ["Cut", "NotFollowed", "as_program", "cut"]
