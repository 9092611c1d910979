"""What the runner says when it cannot: a kind for programs, a message and a hint for people."""

from __future__ import annotations


class Refusal(Exception):
    """`kind` is one of: no runtime, old runtime, cannot load, cannot run, bad job; of the first two `runtime` says which."""

    def __init__(self, kind: str, message: str, hint: str = "", runtime: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.runtime = runtime

    def as_dict(self) -> dict[str, str]:
        """For the answer."""
        said = {"kind": self.kind, "message": self.message, "hint": self.hint}
        return dict(said, runtime=self.runtime) if self.runtime else said


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
