"""A failed check told: the first node at which the cut model differs from the masked original."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from surgeon.compare import alike
from surgeon.errors import CheckFailed
from surgeon.masked import Masked, tensors_in
from surgeon.plan import Keep
from surgeon.rules import RULES, USER
from surgeon.running import run
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import Recorder, module_paths


@dataclass
class _Trail(TorchDispatchMode):
    """Every output of the cut model, with the module that made it."""

    recorder: Recorder
    seen: list[tuple[str, Tensor, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen += [(str(func), t.clone(), self.recorder.path[-1]) for t in tensors_in(out)]
        return out


def failure(
    twin: nn.Module,
    small: nn.Module,
    keep: Keep,
    inputs: Inputs,
    found: tuple[float, float],
) -> CheckFailed:
    """The failed check, with the first node whose kept elements differ."""
    wanted: list[Any] = []
    run(twin, inputs, Masked(twin, keep, wanted))
    recorder = Recorder(False)
    trail = _Trail(recorder)
    with module_paths(small, recorder):
        run(small, inputs, trail)
    message = (
        f"the cut model is off by {found[0]:.2e} of its output's range (allowed {found[1]:.0e})"
    )
    where = "the two forwards run different ops, so the node cannot be named"
    if [op for op, _ in wanted] == [op for op, _, _ in trail.seen]:
        where = next(
            (
                f"first difference: {op} at {path or 'the model itself'}"
                for (op, a), (_, b, path) in zip(wanted, trail.seen, strict=True)
                if not alike(a, b)
            ),
            "every node agrees by itself: the outputs differ by accumulated rounding",
        )
    own = ", ".join(f"{r.op} '{r.forms[0]}'" for r in RULES.values() if r.family == USER)
    told = f"\n  with rules of your own: {own}" if own else ""
    hint = "is it the model that this plan makes of the original, with the same weights?"
    return CheckFailed(f"{message}\n  {where}{told}", hint)
