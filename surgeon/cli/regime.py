"""Options of `surgeon shrink` beside the cut: steps, training between and after them, and which weights stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from surgeon.cli import parse
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from surgeon.cli.options import Opening
    from surgeon.cli.screen import Screen
    from surgeon.files.source import Source

Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Cut in so many steps, each chosen on what is left; 1 by default"
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How much is reached after each step: linear (default), exponential, polynomial, one-cycle",
    ),
]
Tune = Annotated[
    int | None,
    typer.Option(metavar="EPOCHS", help="Train on --data after each step, so many epochs"),
]
TuneWith = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="An option of surgeon tune for --tune: lr=0.01, batch=64, patience=3; repeatable",
    ),
]
TeacherRef = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="original|none|MODEL",
        help="Whom --tune learns from beside labels; the network before any cut by default",
    ),
]
Rewind = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="What stays gets the weights of this earlier checkpoint (lottery ticket)",
    ),
]
Reinit = Annotated[bool, typer.Option("--reinit", help="What stays begins anew, drawn by --seed")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Begin again, not where a run of --tune was killed")
]

_OWN = {"epochs": "--tune", "mean": "--mean", "std": "--std", "state": "-o", "arch": "--arch"}


@dataclass(frozen=True)
class RegimeOptions:
    """What was said, as it was said."""

    steps: int | None = None
    schedule: str | None = None
    tune: int | None = None
    tune_with: tuple[str, ...] = ()
    teacher: str | None = None
    rewind: str | None = None
    reinit: bool = False
    restart: bool = False

    def asked(self, data: bool) -> dict[str, Any]:
        """Options of `surgeon.shrink`, before anything is opened. BadInput for what cannot be meant."""
        for option, given in (("--tune-with", self.tune_with), ("--teacher", self.teacher)):
            if given and self.tune is None:
                raise BadInput(f"{option} is about training, and there is none", "give --tune 10")
        if self.restart and self.tune is None:
            raise BadInput("--restart is of runs that train", "give --tune 10, or leave it out")
        if self.tune is not None and not data:
            raise BadInput("--tune trains, and there are no data", "give --data")
        said: dict[str, Any] = {
            "steps": self.steps, "schedule": self.schedule, "rewind": self.rewind,
            "reinit": self.reinit or None, "tune": None if self.tune is None else self._tuning(),
        }  # fmt: skip
        return {key: value for key, value in said.items() if value is not None}

    def _tuning(self) -> Any:
        from surgeon.tune import Tuning

        assert self.tune is not None
        types = {n: t for n, t in get_type_hints(Tuning).items() if n not in _OWN}
        own = parse.named(self.tune_with, "--tune-with", types)
        if isinstance(own.get("loss"), str):
            own["loss"] = parse.function(own["loss"], "--tune-with loss")
        return Tuning(epochs=self.tune, **own)

    def opened(
        self, source: Source, how: tuple[Opening, Screen], asked: dict[str, Any], data: Any
    ) -> dict[str, Any]:
        """The same once the model and its data are open: the checkpoint, the teacher, what is tuned on."""
        from dataclasses import replace

        opening, screen = how
        found: dict[str, Any] = {}
        if self.rewind is not None:
            from surgeon.files.earlier import open_earlier

            screen.step(f"open {self.rewind}")
            files = opening.allow, opening.unsafe_pickle
            found["rewind"] = open_earlier(self.rewind, source.model, *files)
        if self.tune is None:
            return found
        arch = (source.payload or {}).get("arch") or source.arch
        about = {"mean": data.options.mean, "std": data.options.std, "arch": arch}
        found["tune"] = replace(asked["tune"], **about)
        if self.teacher not in (None, "original"):
            none = self.teacher == "none"
            found["teacher"] = None if none else opening.open(str(self.teacher), screen).model
        return found


def unfinished(out: Path, restart: bool) -> Path:
    """The folder of a run that is not done, in its output folder; empty where it is to begin again."""
    folder = out / "unfinished"
    if restart:
        done(folder)
    return folder


def done(folder: Path | None) -> None:
    """What was kept to go on from is not needed any more."""
    from surgeon.pipeline.resume import forget

    if folder is not None:
        forget(folder)


def leave_nothing_empty(folder: Path | None) -> None:
    """Folders that were made for a run which was refused before it kept anything."""
    for each in (folder, folder.parent) if folder is not None else ():
        if each.is_dir() and not any(each.iterdir()):
            each.rmdir()


def how_to_go_on(folder: Path | None) -> list[str]:
    """What to say where a run was interrupted."""
    if folder is None or not folder.exists():
        return []
    return [f"the same command goes on after the last step or epoch that was done ({folder})"]
