"""Options that several commands take, spelled once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from surgeon.files.source import Source
    from surgeon.measure.target import Target
    from surgeon.plan import Plan
    from surgeon.trace.inputs import Inputs


def folder(text: str | Path) -> Path:
    """-o as a path; BadInput for the empty one, which would be the folder that one is in."""
    if not str(text).strip():
        raise BadInput("-o is empty", "name a folder to write, or leave -o out")
    return Path(text)


_MODEL = (
    "Checkpoint, pickled module, .pt2 program, slim.pth, or an architecture: torchvision:resnet18"
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL, show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="What a state dict belongs to: torchvision:NAME, timm:NAME, hf:FOLDER, file.py:factory",
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SIZES",
        help="Example input: 1,3,224,224; several with ';' or repeated, a type as 1,128:int64, a keyword as input_ids=1,128:int64",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="CLASS", help="Class that a pickled module may use; repeatable"),
]
UnsafePickle = Annotated[
    bool, typer.Option("--unsafe-pickle", help="Load any pickle: runs the code that is in it")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of PyTorch and of the runtime")]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="Where it is timed: local (default), ssh://user@host, adb"),
]
Runtime = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What runs it: ort (ONNX Runtime, default), openvino, ..."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Where to write; NAME-slim/ by default",
        parser=folder,
    ),
]
NoCheck = Annotated[bool, typer.Option("--no-check", help="Leave out the proof")]
NoMeasure = Annotated[bool, typer.Option("--no-measure", help="Count, but do not time")]
NoOnnx = Annotated[
    bool, typer.Option("--no-onnx", help="Write no slim.onnx; then nothing is timed")
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.PY:FUNCTION", help="Your function, model to number: shown before and after"
    ),
]


Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Layers whose channels all stay; repeatable"),
]
Criterion = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Importance: l2 (default), l1, fpgm, ...; with --data taylor, fisher, ...: see the README",
    ),
]
RoundTo = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Channels kept are a multiple of N; auto finds what the target's kernels like",
    ),
]


@dataclass(frozen=True)
class Opening:
    """How MODEL is to be opened; `recorded` are a plan's inputs, for where none are said."""

    arch: str | None = None
    input: str | None = None
    allow: tuple[str, ...] = ()
    unsafe_pickle: bool = False
    threads: int = 1
    recorded: Inputs | None = None

    def for_plan(self, plan: Plan | None) -> Opening:
        """With the inputs that the plan was made with, where none are given and it records any."""
        from surgeon.files.inputs import refilled
        from surgeon.pipeline.replay import inputs_of

        if self.input is not None or plan is None or not plan.model.get("inputs"):
            return self
        return replace(self, recorded=refilled(inputs_of(plan)))

    def open(self, ref: str, screen: Screen) -> Source:
        """The model, with what the user should know about it said."""
        import torch

        from surgeon.files.source import open_model

        torch.set_num_threads(self.threads)
        screen.step(f"open {ref}")
        given = self.recorded if self.input is None else self.input
        source = open_model(ref, self.arch, given, self.allow, self.unsafe_pickle)
        screen.notes(source.notes)
        return source


def target(device: str | None, runtime: str | None, threads: int) -> Target:
    """Where a network is timed. BadInput for a runtime that does not exist."""
    from surgeon.measure.target import Target

    given = {"device": device, "runtime": runtime}
    return Target(threads=threads, **{key: text for key, text in given.items() if text is not None})


def timed_on(target: Target, asked: Mapping[str, object], no_measure: bool) -> dict[str, object]:
    """What is asked of the target where something is measured there before the cut; nothing where that is not."""
    from surgeon.budget.limit import MEASURED

    limits = sorted(asked.keys() & {f"max_{what}" for what in MEASURED})
    if limits and no_measure:
        raise BadInput(
            f"--{limits[0].replace('_', '-')} is met by measuring", "leave out --no-measure"
        )
    return vars(target) if limits or asked.get("round_to") == "auto" else {}


def opening(
    arch: str | None,
    input: list[str] | None,
    allow: list[str] | None,
    unsafe_pickle: bool,
    threads: int = 1,
) -> Opening:
    """The options of opening, as typer gives them; inputs that are given one by one are those of one call."""
    sizes = ";".join(input) if input else None
    return Opening(arch, sizes, tuple(allow or ()), unsafe_pickle, threads)
