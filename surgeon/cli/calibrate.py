"""`--data` of `surgeon shrink`: its options are refused early, the data are opened once the model is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeon.cli import parse
from surgeon.cli.screen import Screen
from surgeon.errors import BadInput

if TYPE_CHECKING:
    from surgeon.data import DataOptions
    from surgeon.files.source import Source

Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Keep the accuracy from these examples: folder or zip of pictures, .npy, .npz, .pt, file.py:loader",
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Held-out examples, all of them: output error, and with labels top-1 and top-5, before and after",
    ),
]
Count = Annotated[int | None, typer.Option("--samples", help="Of --data, so many; 128 by default")]
Mean = Annotated[str | None, typer.Option(metavar="M,M,M", help="Of pixels from 0 to 1")]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Of pixels from 0 to 1")]
Recover = Annotated[
    str | None,
    typer.Option(
        metavar="PARTS",
        help="What --data does: select, allocate, compensate (all by default), or none",
    ),
]


@dataclass(frozen=True)
class Calibration:
    """What was said about data. `recover`: parts of the recovery, None where nothing was said."""

    ref: str
    options: DataOptions
    recover: tuple[str, ...] | None

    def asked(self, data: Any = ()) -> dict[str, Any]:
        """Options of `surgeon.shrink`; without data, to be checked before anything is opened."""
        parts = {} if self.recover is None else {"recover": self.recover}
        return {"data": data, **parts}

    def opened(self, source: Source, screen: Screen) -> tuple[Source, dict[str, Any]]:
        """The source with the notes of its data, and the options of `surgeon.shrink`."""
        from surgeon.data import open_data

        arch = (source.payload or {}).get("arch") or source.arch
        screen.step(f"look at {self.ref}")
        samples = open_data(self.ref, source.inputs, replace(self.options, arch=arch))
        screen.notes(samples.notes)
        return replace(source, notes=(*source.notes, *samples.notes)), self.asked(samples)


def held_out(
    ref: str | None, given: Calibration | None, source: Source, screen: Screen
) -> tuple[Any, bool]:
    """(examples that accuracy is told on or None, whether the data given are others)."""
    from surgeon.data import DataOptions, open_data

    if ref is None:
        return None, False
    same = given.options if given is not None else DataOptions()
    arch = (source.payload or {}).get("arch") or source.arch
    screen.step(f"look at {ref}")
    options = replace(same, samples=None, arch=arch)
    samples = open_data(ref, source.inputs, options)
    screen.notes(f"--eval-data: {note}" for note in samples.notes)
    return samples, given is None or given.ref != ref


def calibration(
    data: str | None,
    samples: int | None,
    mean: str | None,
    std: str | None,
    recover: str | None,
) -> Calibration | None:
    """None without data. BadInput where other options speak of data and there are none."""
    about = {"--samples": samples, "--mean": mean, "--std": std, "--recover": recover}
    said = [name for name, value in about.items() if value is not None]
    if data is None:
        if said:
            raise BadInput(f"{said[0]} is about data, and there are none", "give --data")
        return None
    from surgeon.data import DataOptions

    wanted = DataOptions.samples if samples is None else samples
    options = DataOptions(
        wanted, mean=parse.numbers(mean, "--mean"), std=parse.numbers(std, "--std")
    )
    return Calibration(data, options, parse.parts(recover))
