"""What a caller asks of `shrink`: keyword options become a Request, and the Material to score on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from surgeon.budget import Limit, Request
from surgeon.budget.limit import COUNTED, MEASURED
from surgeon.budget.request import kinds
from surgeon.errors import BadInput
from surgeon.measure.target import Target
from surgeon.measure.widths import probed
from surgeon.pipeline.steps import Steps
from surgeon.score import Criterion, Material, known
from surgeon.score.loss import Loss
from surgeon.sensitivity.record import Sensitivity


class Options(TypedDict, total=False):
    """Keyword options of `shrink`; see `surgeon.budget.Request` for what each means."""

    threshold: float | None
    ratio_for: Mapping[str, float]
    ignore: Sequence[str]
    criterion: str | Criterion
    by: str
    reduce: str
    normalise: str
    normalize: str
    data: Iterable[Any]
    labelled: bool
    loss: Loss
    recover: Sequence[str]
    scope: str
    round_to: int | str | None
    remove: Mapping[str, Sequence[int]]
    max_flops: str | float | None
    max_params: str | float | None
    max_latency: str | Limit | None
    max_memory: str | Limit | None
    max_size: str | Limit | None
    device: str
    runtime: str
    threads: int
    cut: str | Sequence[str]
    equal: str | Sequence[str]
    seed: int
    dead: bool
    program: bool | None
    sensitivity: Sensitivity | str | Path


class Asked(NamedTuple):
    """What goes, what may be read to choose it, and where it is to run."""

    request: Request
    material: Material
    sensitivity: Sensitivity | None = None
    target: Target = Target()


def aligned(wanted: Asked, run: Steps) -> Asked:
    """With the widths that the target's kernels like, found by timing layers there, where round_to is 'auto'; limits that
    are measured ask for them by themselves."""
    request = wanted.request
    if request.round_to != "auto" and not (request.measured and request.round_to is None):
        return wanted
    widths = run("find the widths that its kernels like", lambda: probed(wanted.target))
    return wanted._replace(request=replace(request, round_to=widths))


def asked(ratio: float | None, options: Options) -> Asked:
    """Raise BadInput for what cannot be meant, without a model."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise BadInput(
            f"no option {', '.join(sorted(unknown))}",
            f"there are ratio, {', '.join(Options.__annotations__)}",
        )
    given: dict[str, Any] = dict(options)
    material, measured, target = Material.of(given), _measured(given), _target(given)
    if given.get("dead"):
        material = _dead(material, options.get("recover"))
    if "normalize" in given:
        given.setdefault("normalise", given.pop("normalize"))
    for what in (f"max_{name}" for name in (*COUNTED, *MEASURED)):
        if given.get(what) is not None:
            given[what] = Limit.parse(given[what], what)
    for what in ("cut", "equal"):
        if given.get(what) is not None:
            given[what] = kinds(given[what])
    given["ignore"] = tuple(given.get("ignore", ()))
    given["remove"] = {k: tuple(v) for k, v in given.get("remove", {}).items()}
    own = known(given.get("criterion", Request.criterion)).normalise
    if given.get("threshold") is not None:
        own = own or "max"
        material = fit_alone(material, options.get("recover"), "a threshold on the scores")
    given["normalise"] = given.get("normalise") or own
    return Asked(Request(ratio=ratio, **given), material, measured, target)


def _target(given: dict[str, Any]) -> Target:
    """Device, runtime and threads, taken out of the options."""
    told = {name: given.pop(name) for name in ("device", "runtime", "threads") if name in given}
    return Target(**{name: value for name, value in told.items() if value is not None})


def _dead(material: Material, named: Sequence[str] | None) -> Material:
    """Data say what is dead on them; nothing is chosen or fitted."""
    if named:
        raise BadInput("--dead chooses and fits nothing", "leave out --recover")
    return replace(material, recover=())


def fit_alone(material: Material, named: Sequence[str] | None, who: str) -> Material:
    """Something else than data says what goes and how much; data fit what stays."""
    if {"select", "allocate"} & set(named or ()):
        raise BadInput(
            f"{who} says what goes, and select and allocate would choose it anew",
            f"recover=('compensate',), or a ratio instead of {who}",
        )
    return replace(material, recover=tuple(w for w in material.recover if w == "compensate"))


def _measured(given: dict[str, Any]) -> Sensitivity | None:
    """Losses of groups, taken out of the options. BadInput where the request leaves no choice to them."""
    found = given.pop("sensitivity", None)
    if found is None:
        return None
    if given.get("threshold") is not None:
        raise BadInput(
            "a threshold says how much goes, whatever it costs", "leave out --sensitivity"
        )
    if given.get("dead"):
        raise BadInput(
            "--dead cuts what is dead, whatever it would cost", "leave out --sensitivity"
        )
    return found if isinstance(found, Sensitivity) else Sensitivity.load(found)
