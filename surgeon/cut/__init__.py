"""(model, Plan) -> a smaller model: the user's own module where its code allows it, else its program."""

from surgeon.cut.choose import Cut, cut

__all__ = ["Cut", "cut"]
