"""An upper bound, as people write it: 0.5x of the original, 900M FLOPs, 12ms, 4MB."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from surgeon.errors import BadInput

COUNTED = ("flops", "params")  # known exactly before anything is cut
MEASURED = ("latency", "memory", "size")  # known once the cut network has run

_COUNT = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS: dict[str, tuple[Mapping[str, float], str]] = {
    "latency": (_SECONDS, "0.5x, 12ms or 0.012s"),
    "memory": (_BYTES, "0.5x, 40MB or 512KiB"),
    "size": (_BYTES, "0.5x, 4MB or 512KiB"),
}


@dataclass(frozen=True)
class Limit:
    """An upper bound: absolute (FLOPs, parameters, seconds, bytes) or relative to the original ('0.5x').

    `said` is how the user wrote it, where that has a unit.
    """

    value: float
    relative: bool
    said: str = field(default="", compare=False)

    @staticmethod
    def parse(text: str | float | Limit, what: str) -> Limit:
        """'0.5x', '900M', '1.2G' or a number; '12ms' for max_latency, '4MB' for max_memory and max_size.

        what: the option, as 'max_flops'. Raises BadInput.
        """
        if isinstance(text, Limit):
            return text
        units, example = _UNITS.get(what.removeprefix("max_"), (_COUNT, "0.5x, 900M or 1.2G"))
        said = str(text).strip()
        match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:e[+-]?\d+)?)\s*([a-zµ]*)", said.lower())
        if match is None or (match.group(2) != "x" and match.group(2) not in units):
            lacks = match is not None and not match.group(2)
            why = "has no unit" if lacks else "is not a limit"
            raise BadInput(f"{what} '{text}' {why}", f"write {example}")
        number, unit = float(match.group(1)), match.group(2)
        if number <= 0 or (unit == "x" and number > 1):
            raise BadInput(f"{what} '{text}' must be above 0, and at most 1x", f"write {example}")
        if unit == "x":
            return Limit(number, True)
        return Limit(number * units[unit], False, said)

    def of(self, original: float) -> float:
        """The bound in absolute terms."""
        return self.value * original if self.relative else self.value

    def share(self, original: float) -> float:
        """The bound relative to the original."""
        return self.value if self.relative else self.value / original

    def __str__(self) -> str:
        return f"{self.value:g}x" if self.relative else self.said or f"{self.value:g}"


@dataclass(frozen=True)
class Span:
    """A measured number with its 95 % interval; of one that has none, all three are the same."""

    value: float
    low: float
    high: float

    @staticmethod
    def exact(value: float) -> Span:
        """A number without an interval."""
        return Span(value, value, value)

    def over(self, whole: float) -> Span:
        """As a share of `whole`."""
        return Span(self.value / whole, self.low / whole, self.high / whole)
