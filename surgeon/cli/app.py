"""The commands, with an example each."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from surgeon import __version__
from surgeon.cli.apply import apply
from surgeon.cli.bench import bench
from surgeon.cli.check import check
from surgeon.cli.device import device
from surgeon.cli.env import env
from surgeon.cli.export import export
from surgeon.cli.inspect import inspect
from surgeon.cli.report import report
from surgeon.cli.rules import rules
from surgeon.cli.sensitivity import sensitivity
from surgeon.cli.shrink import shrink
from surgeon.cli.sparsify import sparsify
from surgeon.cli.sweep import sweep
from surgeon.cli.tune import tune

# click's UsageError, or that of typer's own copy of click
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

_EXAMPLES = {
    shrink: "surgeon shrink model.pth --arch torchvision:resnet50 --ratio 0.5",
    inspect: "surgeon inspect torchvision:resnet18",
    apply: "surgeon apply resnet50-slim/plan.json model.pth --arch torchvision:resnet50",
    check: "surgeon check model.pth resnet50-slim/slim.pth --arch torchvision:resnet50",
    sensitivity: "surgeon sensitivity model.pth --arch torchvision:resnet50 --data images -o sensitivity.json",
    sparsify: "surgeon sparsify model.pth --arch torchvision:resnet50 --granularity filter --ratio 0.5",
    tune: "surgeon tune resnet50-slim/slim.pth --data images/train --teacher model.pth --arch torchvision:resnet50",
    export: "surgeon export resnet50-slim/slim.pth -o slim.onnx",
    sweep: "surgeon sweep model.pth --arch torchvision:resnet50 --max-latency 0.9x..0.3x",
    bench: "surgeon bench before.onnx resnet50-slim/slim.onnx",
    report: "surgeon report resnet50-slim --tensorboard runs/resnet50-slim",
    device: "surgeon device ssh://pi@raspberrypi.local",
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
    app.command(
        no_args_is_help=_command not in (rules, env, device), epilog=f"Example: {_example}"
    )(_command)


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
