"""What was asked: how much, where, at what limit. Validated before anything is traced."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from surgeon.budget.align import Near, Widths, block_of_this_cpu
from surgeon.budget.limit import COUNTED, MEASURED, Limit
from surgeon.errors import BadInput
from surgeon.kinds import KINDS

SCOPES = ("local", "global", "isomorphic")
BY = ("group", "filter", "shared-kernel")
REDUCE = ("mean", "sum", "max", "first")
NORMALISE = ("none", "mean", "max", "gaussian", "lamp")


@dataclass(frozen=True)
class Request:
    """Options of a shrink.

    ratio: share of channels removed, in [0, 1), of each group (local) or of all together.
    ratio_for: {glob: ratio} for groups by layer path. ignore: globs of layers whose outputs stay.
    scope: 'local', 'global' or 'isomorphic' (arXiv 2407.04616). round_to: channels kept are a
    multiple of it; 'auto' is this CPU's block. by: whose weights decide. reduce: how the scores of a
    group's layers become one. normalise: how scores of groups that compete are made comparable (by the group's mean
    where nothing is said). threshold: instead of a ratio, channels go whose normalised score is below it (where
    nothing is said, normalised by the group's largest). remove: {'layer1.0.conv1' or
    'layer2.0.conv1:in': positions}. max_flops, max_params: limits, instead of a ratio; max_latency, max_memory
    (peak), max_size (of the file that is run): such that are measured on the target. cut: kinds of
    channels that may go (`surgeon.kinds`), all where none is named; of heads x head_dim one is cut,
    or each that is named. equal: kinds whose groups of one make keep equally many channels. dead: what
    is dead goes, and nothing else. program: whether a program may be cut where the network's own forward does not follow
    all of it (True), what it does not follow is left whole (False), or that only where it is little (None).
    """

    ratio: float | None = None
    threshold: float | None = None
    ratio_for: Mapping[str, float] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    criterion: Any = "l2"
    by: str = "group"
    reduce: str = "mean"
    normalise: str | None = None
    scope: str = "local"
    round_to: int | str | Widths | None = None
    remove: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    max_flops: Limit | None = None
    max_params: Limit | None = None
    max_latency: Limit | None = None
    max_memory: Limit | None = None
    max_size: Limit | None = None
    cut: tuple[str, ...] = ()
    equal: tuple[str, ...] = ()
    seed: int = 0
    dead: bool = False
    program: bool | None = None

    def __post_init__(self) -> None:
        _check_ratio("ratio", self.ratio)
        for glob, ratio in self.ratio_for.items():
            _check_ratio(f"ratio_for {glob}: ratio", ratio)
        if self.scope not in SCOPES:
            raise BadInput(f"scope '{self.scope}' does not exist", f"one of {', '.join(SCOPES)}")
        if self.by not in BY:
            raise BadInput(f"by '{self.by}' does not exist", f"one of {', '.join(BY)}")
        for what, given, all_of_them in (
            ("reduce", self.reduce, REDUCE),
            ("normalise", self.normalise or "none", NORMALISE),
        ):
            if given not in all_of_them:
                raise BadInput(
                    f"{what} '{given}' does not exist", f"one of {', '.join(all_of_them)}"
                )
        _check_kinds("cut", self.cut)
        _check_kinds("equal", self.equal)
        how_much = (
            self.ratio is not None,
            self.threshold is not None,
            bool(self.limits or self.measured),
        )
        if sum(how_much) > 1:
            raise BadInput(
                "a ratio, a threshold and a limit contradict each other",
                "give --ratio, or --threshold, or limits as --max-flops and --max-latency",
            )
        _check_threshold(self.threshold)
        number = isinstance(self.round_to, int) and self.round_to > 0
        if not (number or self.round_to in (None, "auto") or isinstance(self.round_to, Widths)):
            raise BadInput(f"round_to {self.round_to!r} must be a positive number or 'auto'")
        asked = bool(any(how_much) or self.remove or self.ratio_for)
        if self.dead and asked:
            raise BadInput(
                "--dead removes what is dead and nothing else: a ratio, a limit or --remove says more",
                "shrink with --dead, then shrink the result",
            )
        if not (asked or self.dead):
            raise BadInput(
                "nothing was asked",
                "give --ratio 0.5, --max-flops 0.5x, --dead, --remove or --plan",
            )

    @property
    def widths(self) -> Widths:
        """Counts of channels that may be kept; 'auto' that is not resolved means this CPU's block."""
        if isinstance(self.round_to, Widths):
            return self.round_to
        number = block_of_this_cpu() if self.round_to == "auto" else int(self.round_to or 1)
        return Widths.multiples(number)

    @property
    def near(self) -> Near | None:
        """Counts that a ratio is rounded to where nothing is said of rounding: those that this CPU's kernels like."""
        plain = self.round_to is None and self.threshold is None and not self.limits
        return Near(block_of_this_cpu()) if plain else None

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits on what can be counted, by what they bound."""
        return self._given(COUNTED)

    @property
    def measured(self) -> dict[str, Limit]:
        """The limits on what must be measured."""
        return self._given(MEASURED)

    def _given(self, names: Sequence[str]) -> dict[str, Limit]:
        found = {name: getattr(self, f"max_{name}") for name in names}
        return {name: limit for name, limit in found.items() if limit is not None}

    def as_dict(self) -> dict[str, Any]:
        """For plan.json: only what was asked."""
        quiet = {f: None for f in ("seed", "dead") if not getattr(self, f)}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in quiet}
        data = {k: v for k, v in own.items() if v is not None and v not in ({}, ())}
        if self.reduce == "mean":  # what plans of older surgeons mean, too
            del data["reduce"]
        data |= {f"max_{k}": str(v) for k, v in (self.limits | self.measured).items()}
        if isinstance(self.round_to, Widths):
            data["round_to"] = str(self.round_to)
        if callable(self.criterion):
            data["criterion"] = getattr(self.criterion, "__name__", type(self.criterion).__name__)
        return data


def kinds(text: str | Sequence[str]) -> tuple[str, ...]:
    """'heads,mlp', or a list of kinds -> each once, in the order of KINDS; a word that is none stays."""
    words = text.split(",") if isinstance(text, str) else list(text)
    found = dict.fromkeys(str(word).strip() for word in words)
    return tuple(sorted(found, key=lambda k: KINDS.index(k) if k in KINDS else len(KINDS)))


def _check_kinds(what: str, given: tuple[str, ...]) -> None:
    for word in given:
        if word not in KINDS:
            close = difflib.get_close_matches(word, KINDS, 1, 0.3)
            hint = f"did you mean {close[0]}? " if close else ""
            raise BadInput(
                f"{what} '{word}' is no kind of channels", f"{hint}there are {', '.join(KINDS)}"
            )


def _check_threshold(given: Any) -> None:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is not None and not (number and math.isfinite(given)):
        raise BadInput(f"threshold {given!r} is not a number", "a normalised score, as 0.1")


def _check_ratio(what: str, ratio: Any) -> None:
    if ratio is None:
        return
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not math.isfinite(ratio):
        raise BadInput(f"{what} {ratio!r} is not a number", "the share of channels to remove: 0.5")
    if not 0 <= ratio < 1:
        raise BadInput(
            f"{what} {ratio:g} is outside [0, 1)",
            "it is the share of channels to remove: 0.5 is half",
        )
