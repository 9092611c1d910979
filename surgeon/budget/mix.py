"""What a measured quantity is made of, by kind of work: assumed at first, then fitted to what was measured.

Everything is relative to the original network: of its latency, some share is proportional to the multiply-adds of
dense layers, some to depthwise ones, and so on. A cut network leaves so much of each kind of work, and so much of
the latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeon.budget.limit import Span

Array = NDArray[np.float64]

# What a unit of work takes relative to a multiply-add of a dense layer: a first guess for ONNX Runtime on x86, anchored
# and then corrected by measurements. Where modules were timed, their shares of the latency stand for all of it.
_LATENCY = {"dense": 1.0, "depthwise": 3.0, "products": 1.5, "moved": 2.0, "timed": 1.0}
# Bytes of numbers of four bytes; what loading a file takes besides is in the rest, which nothing cuts.
_MEMORY = {"weights": 4.0, "live": 4.0}
_SIZE = {"weights": 4.0}
RATES: Mapping[str, Mapping[str, float]] = {"latency": _LATENCY, "memory": _MEMORY, "size": _SIZE}

_PULL = 0.3  # of what is assumed against one exact measurement: kinds of work shrink together, and few cuts tell them apart badly
_EXACT = 0.005  # no measurement is taken to be more exact, relative
_BEND = 0.15  # how wrong a measurement is for a cut that is twice as large, relative


@dataclass(frozen=True, eq=False)
class Mix:
    """`shares[k]`: of the original's latency (memory, size), the part that is proportional to work of kind k.

    `scale` corrects the last bit: what was measured over what the shares say of it.
    """

    shares: Array
    scale: float = 1.0

    def of(self, left: Array) -> float:
        """Latency (memory, size) relative to the original's, where `left` of each kind of work is left: [kinds] in [0, 1]."""
        return float(self.shares @ left) * self.scale


def assumed(
    work: Mapping[str, float], rates: Mapping[str, float], whole: float | None = None
) -> Mix:
    """The first guess, from the original's work by kind.

    whole: what the quantity is, in the unit that the rates give; what they do not explain of it is fixed.
    """
    parts = np.array([rates.get(kind, 0.0) * amount for kind, amount in work.items()])
    total = max(whole or 0.0, float(parts.sum()), 1e-12)
    kinds = list(work)
    parts[kinds.index("fixed")] = total - parts.sum()
    return Mix(parts / total)


def fitted(first: Mix, seen: Sequence[tuple[Array, Span]], near: float, whole: Array) -> Mix:
    """The mix that says best what was measured: seen are pairs of what is left by kind, and of the quantity.
    whole: of the original itself, 1 of each kind of work that it has; kinds that it lacks explain nothing.

    Least squares of relative errors, no share negative, drawn a little towards the first guess. What is still wrong
    then is corrected by a factor: that of the measurements around `near`, where the next cut will be, and each
    counts as much as its interval is narrow.
    """
    from scipy.optimize import nnls

    if not seen:
        return first
    trust = [1 / (_width(span) + _EXACT) for _, span in seen]
    rows = [(3.0, whole, 1.0)]
    rows += [(w * _EXACT, left, span.value) for w, (left, span) in zip(trust, seen, strict=True)]
    pull = np.eye(len(whole)) * _PULL**0.5
    shares, _ = nnls(
        np.vstack([*(weight * left / value for weight, left, value in rows), pull]),
        np.concatenate([[weight for weight, _, _ in rows], _PULL**0.5 * first.shares]),
    )
    mix = Mix(shares)
    off = np.array([np.log(span.value / max(mix.of(left), 1e-9)) for left, span in seen])
    away = np.array([_BEND * abs(np.log(span.value / near)) for _, span in seen])
    weights = 1 / (np.array([_width(span) for _, span in seen]) ** 2 + away**2 + _EXACT**2)
    return Mix(shares, float(np.exp(weights @ off / weights.sum())))


def _width(span: Span) -> float:
    """Half of the interval, relative."""
    return (span.high - span.low) / 2 / span.value
