"""What surgeon says when it cannot: one message, one hint, one exit code."""

from __future__ import annotations

from surgeon.graph import Path

FAILS = "the model fails in forward: "  # how the message of a forward that raises begins


class SurgeonError(Exception):
    """A refusal that names its subject and says what to do.

    `message` is one sentence or a short block; `hint` is what the user can do next.
    `exit_code` is what the command line returns: 2 bad input, 3 out of reach, 4 a failed check.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class BadInput(SurgeonError):
    """A file, an option or a model that cannot be used as given (exit 2)."""


class OutOfReach(SurgeonError):
    """What was asked cannot be reached, or nothing could be cut (exit 3)."""

    exit_code = 3


class CheckFailed(SurgeonError):
    """The cut model does not compute what the masked original computes (exit 4).

    `path`: the numbers that the original's forward read where it was seen, by data: which sides of decisions it took.
    """

    exit_code = 4

    def __init__(self, message: str, hint: str | None = None, path: Path = ()) -> None:
        super().__init__(message, hint)
        self.path = path


class Unproven(CheckFailed):
    """Nothing wrong was found, and nothing shows that the cut model is right: these inputs cannot tell (exit 4)."""
