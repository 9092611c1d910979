"""`surgeon`: the one place where an error becomes a message and an exit code.

Imports next to nothing itself, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import os
import sys

from surgeon.cli import interrupt
from surgeon.errors import SurgeonError

INTERRUPTED = 130
_BUG = 1
_TOO_LARGE = "a smaller --input, or a machine with more memory"


def main() -> None:
    """Entry of the console script."""
    interrupt.listen()
    code = run(sys.argv[1:])
    sys.stderr.flush()
    # not sys.exit: an interpreter that holds torch takes a second to take itself apart
    os._exit(code)


def run(args: list[str]) -> int:
    """Run one command and give its exit code; nothing but output leaves this function."""
    as_json = "--json" in args
    try:
        code = _command(args)
        sys.stdout.flush()
    except SurgeonError as error:
        code = _fail(error.exit_code, error.message, error.hint, as_json)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _hung_up()
    except MemoryError as error:
        code = _fail(2, str(error) or "not enough memory", _TOO_LARGE, as_json)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _fail(2, f"{error.strerror or error}{where}", "is the disk full?", as_json)
    except Exception as error:  # noqa: BLE001 - the last resort, so that nobody sees a traceback
        # an import cut short by Ctrl-C fails in ways of its own
        code = INTERRUPTED if interrupt.pressed() else _bug(error, as_json)
    if code == INTERRUPTED:
        sys.stderr.write("interrupted\n")
        return interrupt.exit_code()
    return code


def _command(args: list[str]) -> int:
    from surgeon.cli.app import UsageError, app

    try:
        # --help and --version give 0, Ctrl-C gives 130, a command gives None
        return app(args, prog_name="surgeon", standalone_mode=False) or 0
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # which has shown the help
            return 2
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else f"surgeon {args[0]}"
        message = error.format_message()  # type: ignore[attr-defined]
        raise SurgeonError(message, f"{command} --help") from error


def _fail(code: int, message: str, hint: str | None, as_json: bool) -> int:
    if interrupt.pressed():
        return INTERRUPTED
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    if as_json:
        _write_error({"error": message, "hint": hint, "exit_code": code})
    return code


def _write_error(document: dict[str, object]) -> None:
    """On stdout, where it can be written to: a full disk has been told of on stderr."""
    from surgeon.report.document import dumps

    try:
        sys.stdout.write(dumps(document))
        sys.stdout.flush()
    except OSError:
        return


def _bug(error: Exception, as_json: bool) -> int:
    if os.environ.get("SURGEON_DEBUG"):
        raise error
    said = (str(error).strip() or "no message").splitlines()[0]
    if "can't allocate memory" in said:  # torch has no type of its own for it on the CPU
        return _fail(2, "not enough memory", _TOO_LARGE, as_json)
    hint = (
        "this is a bug in surgeon: run again with SURGEON_DEBUG=1 for the traceback, and report it"
    )
    return _fail(_BUG, f"{type(error).__name__}: {said}", hint, as_json)


def _hung_up() -> int:
    """The reader of our output is gone (`surgeon rules | head`): nothing more is said."""
    return _BUG
