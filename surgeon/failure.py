"""A failed check told: the first node at which the cut model differs from the masked original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.compare import alike, compare, nearest
from surgeon.errors import CheckFailed
from surgeon.graph import Path
from surgeon.masked import Masked, Trail, tensors_in
from surgeon.plan import Keep, Plan
from surgeon.rules import RULES, USER
from surgeon.running import run
from surgeon.trace.decisions import Decisions
from surgeon.trace.inputs import Inputs
from surgeon.trace.recorder import Recorder, module_paths

_ROOM = 2 << 30  # bytes of results that are held at a time, of either forward
_ROUNDED = (
    1e-6  # of a result's range: weights that took up a factor are rounded to their own precision
)


@dataclass
class _Watch(TorchDispatchMode):
    """Leaves every output of the cut model on a trail, and the module that made it in `paths`."""

    recorder: Recorder
    trail: Trail

    def __post_init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tensors_in(out):
            self.trail.add(str(func), t.clone)
            self.paths.append(self.recorder.path[-1])
        return out


def failure(
    twin: nn.Module,
    small: nn.Module,
    told: tuple[Plan, Keep, Path],
    inputs: Inputs,
    found: tuple[float, float],
) -> CheckFailed:
    """The failed check, with the first node whose kept elements differ.

    told: the plan, what of it was masked, and the numbers that were others than the original reads. found: the error,
    and what was allowed.
    """
    plan, keep, path = told
    message = (
        f"the cut model is off by {found[0]:.2e} of its output's range (allowed {found[1]:.0e})"
    )
    if path:
        reads = ", ".join(f"{forced.at.line} reads {forced.number}" for forced in path[:3])
        message += f"\n  on the path where {reads}"
    where = _first_difference((twin, small), (keep, path), inputs, plan.factors)
    own = ", ".join(f"{r.op} '{r.forms[0]}'" for r in RULES.values() if r.family == USER)
    rules = f"\n  with rules of your own: {own}" if own else ""
    hint = "is it the model that this plan makes of the original, with the same weights?"
    return CheckFailed(f"{message}\n  {where}{rules}", hint)


def _first_difference(
    models: tuple[nn.Module, nn.Module],
    told: tuple[Keep, Path],
    inputs: Inputs,
    factors: Sequence[float],
) -> str:
    """Both forwards are run side by side, again for each part of them whose results can be held."""
    (twin, small), (keep, path), start = models, told, 0
    while True:
        wanted = Trail(start, _ROOM)
        with Decisions(path):
            run(twin, inputs, Masked(twin, keep, wanted))
        recorder = Recorder(False)
        watch = _Watch(recorder, Trail(start, _ROOM))
        with module_paths(small, recorder), Decisions(path):
            run(small, inputs, watch)
        if wanted.ops != watch.trail.ops:
            return "the two forwards run different ops, so the node cannot be named"
        pairs = list(zip(wanted.kept, watch.trail.kept, strict=False))
        for k, (a, b) in enumerate(pairs, start):
            if not _agree(a, b, factors):
                return (
                    f"first difference: {wanted.ops[k]} at {watch.paths[k] or 'the model itself'}"
                )
        start += len(pairs)
        if not pairs or start >= len(wanted.ops):
            return "every node agrees by itself: the outputs differ by accumulated rounding"


def _agree(want: Tensor, got: Tensor, factors: Sequence[float]) -> bool:
    if alike(want, got):
        return True
    if not factors or want.numel() != got.numel():
        return False
    return compare([want.reshape(got.shape)], [nearest(want, got, factors)]) <= _ROUNDED
