"""What a caller asks of a shrink beside the cut: in how many steps, and what becomes of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch import nn

from surgeon.data.samples import DataOptions, Samples
from surgeon.errors import BadInput
from surgeon.pipeline.asked import Options
from surgeon.schedule import ratio_at
from surgeon.score import Material

if TYPE_CHECKING:
    from surgeon.tune import Tuning


class _Regime(TypedDict, total=False):
    steps: int
    schedule: str
    tune: Tuning | int
    train: Any
    teacher: nn.Module | str | None
    rewind: Any
    reinit: bool
    state: str | Path
    watch: Callable[[Any], None]


class Shrinking(Options, _Regime, total=False):
    """Keyword options of `shrink`: those of the cut, and those of `Regime`."""


@dataclass(frozen=True)
class Regime:
    """How a shrink goes about it.

    steps: cuts, one after the other; schedule: how much of what was asked is reached after each (`surgeon.schedule`).
    tune: how the network is trained after each cut (`surgeon.Tuning`, or epochs); train: on what, as `surgeon.tune` takes
    it, by default all of `data`; teacher: whom it learns from beside the labels: 'original', the network before any cut (the default), a
    network of the user's, or None. rewind: an earlier checkpoint of the same network (its module or state) whose weights what stays gets
    after each cut. reinit: what stays begins anew after each cut. state: a folder for what a killed run goes on
    from. watch: called with each training step.
    """

    steps: int = 1
    schedule: str = "linear"
    tune: Tuning | None = None
    train: Any = None
    teacher: nn.Module | str | None = "original"
    rewind: nn.Module | Mapping[str, Any] | None = None
    reinit: bool = False
    state: Path | None = None
    watch: Callable[[Any], None] | None = None

    @staticmethod
    def taken(options: dict[str, Any]) -> Regime:
        """The regime in the options of a call, taken out of them. BadInput for what cannot be meant."""
        given = {k: options.pop(k) for k in _Regime.__annotations__ if k in options}
        for what in ("schedule", "teacher"):
            needs = {"schedule": "steps", "teacher": "tune"}[what]
            if given.get(what) is not None and not given.get(needs):
                raise BadInput(f"{what} says how, and there is no {needs}", f"give {needs}")
        given["schedule"] = given.get("schedule") or Regime.schedule
        given["steps"] = _whole("steps", given.get("steps", 1))
        ratio_at(given["schedule"], 0, given["steps"])  # refuses a schedule that is none
        given["tune"], data = _tuning(given.get("tune")), options.get("data")
        given["train"] = _train(given, data)
        if given.get("state") is not None:
            given["state"] = Path(given["state"])
        found = Regime(**given)
        found._refuse(options)
        return found

    def _refuse(self, options: dict[str, Any]) -> None:
        if self.rewind is not None and self.reinit:
            raise BadInput("weights are rewound or begin anew, not both", "leave out one of them")
        if self.anew and self.steps > 1 and self.tune is None:
            raise BadInput(
                "weights that nobody trained say nothing of what the next step should cut",
                "add tune (--tune EPOCHS), or leave out steps",
            )
        if self.anew and "compensate" in (options.get("recover") or ()):
            raise BadInput(
                "what recovery fits is gone when weights are rewound or begin anew",
                "leave compensate out of recover",
            )
        for what, goes in (("dead", "what is dead"), ("threshold", "what is below a threshold")):
            if self.steps > 1 and options.get(what):
                raise BadInput(
                    f"{goes} goes at once: there are no steps to it", "leave out steps (--steps)"
                )

    @property
    def plain(self) -> bool:
        """Whether one cut is all."""
        return self.steps == 1 and self.tune is None and not self.anew

    @property
    def anew(self) -> bool:
        """Whether weights after a cut are other ones."""
        return self.rewind is not None or self.reinit

    def without_fit(self, material: Material) -> Material:
        """The material; where weights are made anew, without what would be fitted before."""
        if not self.anew:
            return material
        return replace(material, recover=tuple(r for r in material.recover if r != "compensate"))

    def facts(self) -> dict[str, Any]:
        """What a plan says of it."""
        said: dict[str, Any] = {}
        if self.steps > 1:
            said = {"steps": self.steps, "schedule": self.schedule}
        if self.tune is not None:
            said["tune"] = self.tune.epochs
        if self.anew:
            said["weights"] = "reinitialised" if self.reinit else "rewound"
        return said


def _whole(what: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise BadInput(f"{what} {number!r} is not a number of them", "1 or more")
    return number


def _tuning(given: Any) -> Tuning | None:
    if given is None:
        return None
    from surgeon.tune import Tuning

    if isinstance(given, Tuning):
        return given
    return Tuning(epochs=_whole("tune", given))


def _train(given: Mapping[str, Any], data: Any) -> Any:
    """What it is tuned on: what was given for it, else all examples of the data, not only the chosen ones."""
    tuning, train = given["tune"], given.get("train")
    if tuning is None:
        if train is not None:
            raise BadInput("train= are data to tune on, and tune= is missing", "give tune=epochs")
        return None
    train = data if train is None else train
    if train is None:
        raise BadInput("tuning needs data, and there are none", "give --data (data=)")
    if isinstance(train, Samples):
        return Samples(train.examples, DataOptions(tuning.samples, tuning.batch, tuning.seed))
    return train
