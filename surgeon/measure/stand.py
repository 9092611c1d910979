"""A test stand: the original made ready on the target once, and slim networks measured beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.budget.limit import Span
from surgeon.errors import BadInput
from surgeon.measure.bench import made, timed
from surgeon.measure.latency import Budget, Comparison
from surgeon.measure.layers import by_module, shares, with_modules
from surgeon.measure.target import Target

if TYPE_CHECKING:
    from torch import nn

    from surgeon.trace.inputs import Inputs

_WANT = ("memory", "profile")
_WIDE = 0.04  # of a ratio: an interval that tells little; somebody else needed the machine


@dataclass(frozen=True)
class Reading:
    """A slim network beside the original, by quantity: its own amounts (seconds, bytes), and shares of the original's.
    `files`: of both. `times`: of modules, relative to the original's, where the runtime tells them."""

    amounts: Mapping[str, Span]
    shares: Mapping[str, Span]
    comparison: Comparison
    files: Mapping[str, Path] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for report.json."""
        return {
            name: {**asdict(span), "share": asdict(self.shares[name])}
            for name, span in self.amounts.items()
        }


class Stand:
    """Networks of one make on one target. `inputs`: of one run; `folder` takes the files.

    `modules`: of the original's latency, what each module takes, once it was timed; empty where the runtime does not tell.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, target: Target, folder: Path, budget: Budget
    ) -> None:
        self._inputs, self._target, self._folder, self._budget = inputs, target, folder, budget
        self._before = made(model, inputs, target, folder / "before")
        self._made = 0
        self.modules: Mapping[str, float] = {}

    def original(self, quantities: Sequence[str]) -> dict[str, float]:
        """Amounts of the original alone: seconds, bytes."""
        files = {"before": self._before}
        seen = timed(files, self._inputs, self._target, self._budget, _WANT)
        self.modules = shares(with_modules(seen, files), "before")
        return {name: span.value for name, span in _amounts(seen, "before", quantities).items()}

    def read(self, slim: nn.Module, quantities: Sequence[str]) -> Reading:
        """Measure a slim network and the original, interleaved."""
        self._made += 1
        path = made(slim, self._inputs, self._target, self._folder / f"after-{self._made}")
        return self._reading({"before": self._before, "after": path}, quantities)

    def confirmed(self, reading: Reading, quantities: Sequence[str]) -> Reading:
        """Measure the same files once more, in a process of its own: the slower of the two readings.

        Where its weights come to lie in memory makes a network half a percent slower or faster from one process to the next.
        """
        again = self._reading(reading.files, quantities)
        return max(reading, again, key=lambda r: r.shares["latency"].high)

    def _reading(self, pair: Mapping[str, Path], quantities: Sequence[str]) -> Reading:
        seen = with_modules(self._steady(pair), pair)
        whole, slim_amounts = (_amounts(seen, name, quantities) for name in pair)
        found = {name: span.over(whole[name].value) for name, span in slim_amounts.items()}
        ratio = seen.ratios["after"]
        found["latency"] = Span(ratio.value, ratio.low, ratio.high)
        before, after = (by_module(seen.facts[name]) for name in pair)
        times = {n: after[n] / told for n, told in before.items() if n in after and told > 0}
        return Reading(slim_amounts, found, seen, pair, times)

    def _steady(self, pair: Mapping[str, Path]) -> Comparison:
        """The pair timed, again where the first interval was wide: the narrower of the two."""
        both = []
        for _ in range(2):
            both.append(timed(pair, self._inputs, self._target, self._budget, _WANT))
            if _width(both[-1]) <= _WIDE:
                break
        return min(both, key=_width)


def _width(seen: Comparison) -> float:
    ratio = seen.ratios["after"]
    return (ratio.high - ratio.low) / ratio.value


def _amounts(seen: Comparison, name: str, quantities: Sequence[str]) -> dict[str, Span]:
    """Latency always; memory and size where they are asked for. BadInput where the target does not tell one."""
    timing, facts = seen.timings[name], seen.facts[name]
    found = {"latency": Span(timing.median_s, timing.low_s, timing.high_s)}
    for what, told in (("memory", facts.peak_memory), ("size", facts.file_bytes)):
        if what in quantities:
            if not told:
                raise BadInput(f"the target does not tell --max-{what}", "leave that limit out")
            found[what] = Span.exact(told)
    return found
