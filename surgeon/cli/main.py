"""`surgeon`: the commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from surgeon import __version__
from surgeon.cli.apply import apply
from surgeon.cli.bench import bench
from surgeon.cli.check import check
from surgeon.cli.env import env
from surgeon.cli.export import export
from surgeon.cli.inspect import inspect
from surgeon.cli.rules import rules
from surgeon.cli.shrink import shrink
from surgeon.errors import SurgeonError

INTERRUPTED = 130
_BUG = 1
_click = sys.modules[typer.BadParameter.__module__]  # click.exceptions, or typer's own copy of it

_EXAMPLES = {
    shrink: "surgeon shrink model.pth --arch torchvision:resnet50 --ratio 0.5",
    inspect: "surgeon inspect torchvision:resnet18",
    apply: "surgeon apply resnet50-slim/plan.json model.pth --arch torchvision:resnet50",
    check: "surgeon check model.pth resnet50-slim/slim.pth --arch torchvision:resnet50",
    export: "surgeon export resnet50-slim/slim.pth -o slim.onnx",
    bench: "surgeon bench before.onnx resnet50-slim/slim.onnx",
    rules: "surgeon rules --markdown",
    env: "surgeon env --json",
}

app = typer.Typer(
    name="surgeon",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 bad input, 3 out of reach or nothing to cut, 4 a check failed.",
    # --max_flops is --max-flops
    context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},
)
for _command, _example in _EXAMPLES.items():
    app.command(no_args_is_help=_command not in (rules, env), epilog=f"Example: {_example}")(
        _command
    )


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"surgeon {__version__}\n")
        raise typer.Exit


@app.callback()
def surgeon(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Make a trained PyTorch network physically smaller, prove the result, measure it."""


def main() -> None:
    """Entry of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Run one command and give its exit code; nothing but output leaves this function."""
    as_json = "--json" in args
    try:
        code = app(args, prog_name="surgeon", standalone_mode=False) or 0
        sys.stdout.flush()
    except SurgeonError as error:
        return _fail(error.exit_code, error.message, error.hint, as_json)
    except _click.ClickException as error:
        return _usage(error, as_json)
    except (KeyboardInterrupt, _click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        return _hung_up()
    except Exception as error:  # noqa: BLE001 - the last resort, so that nobody sees a traceback
        return _bug(error, as_json)
    if code == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    return code


def _fail(code: int, message: str, hint: str | None, as_json: bool) -> int:
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))
    if as_json:
        from surgeon.report.document import dumps

        sys.stdout.write(dumps({"error": message, "hint": hint, "exit_code": code}))
    return code


def _usage(error: Exception, as_json: bool) -> int:
    # what typer raises for no arguments at all has already shown the help
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "surgeon"
    return _fail(2, error.format_message(), f"{command} --help", as_json)  # type: ignore[attr-defined]


def _bug(error: Exception, as_json: bool) -> int:
    if os.environ.get("SURGEON_DEBUG"):
        raise error
    said = (str(error).strip() or "no message").splitlines()[0]
    hint = (
        "this is a bug in surgeon: run again with SURGEON_DEBUG=1 for the traceback, and report it"
    )
    return _fail(_BUG, f"{type(error).__name__}: {said}", hint, as_json)


def _hung_up() -> int:
    """The reader of our output is gone (`surgeon rules | head`): nothing more is said."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BUG
