"""What must be said of a measurement: why a smaller network is no faster, and what speaks against the timing."""

from __future__ import annotations

from surgeon.measure.pair import BeforeAfter
from surgeon.measure.target import Target
from surgeon.measure.widths import known
from surgeon.plan import Plan

_SHOWN = 3


def notes_of(measured: BeforeAfter, plan: Plan, target: Target | None = None) -> tuple[str, ...]:
    """The notes of a measurement on `target` (by default ONNX Runtime here), and why the cut network is no faster than
    the original, where it is not."""
    return measured.notes + _said(measured, plan, target or Target()) + _doubts(measured)


def _doubts(measured: BeforeAfter) -> tuple[str, ...]:
    """What speaks against the timing; nothing where it was quiet."""
    speed = measured.speed
    if speed is None or "after" not in speed.timings:
        return ()
    timing, ratio = speed.timings["after"], speed.ratios["after"]
    noise = "; ".join(dict.fromkeys(t.noise for t in speed.timings.values() if t.noise))
    if not noise:
        return ()
    how = "all rounds, by CPU time where a core was lost"
    if ratio.rounds < timing.runs:
        how = f"{ratio.rounds} of {timing.runs} rounds, in which neither network lost its core"
    return (f"timed while others used the machine ({noise}): the ratio is of {how}",)


def _said(measured: BeforeAfter, plan: Plan, target: Target) -> tuple[str, ...]:
    speed = measured.speed
    if speed is None or speed.ratios["after"].verdict == "faster" or not plan.removed:
        return ()
    block = known(target).block
    ratio = speed.ratios["after"]
    how = "slower than the original" if ratio.verdict == "slower" else "no faster than the original"
    return (f"{how} (x{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]): {_why(measured, plan, block)}",)  # fmt: skip


def _why(measured: BeforeAfter, plan: Plan, block: int) -> str:
    """The likeliest reason: widths that kernels do not like, else what cutting channels does not save."""
    odd = [g for g in plan.groups if g.kept < g.size and g.kept > block and g.kept % 4]
    if odd:
        names = ", ".join(f"{g.name} keeps {g.kept}" for g in odd[:_SHOWN])
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        return f"kernels fall back where a width does not divide by 4: {names}{more}; use --round-to auto"
    uneven = [g for g in plan.groups if g.kept < g.size and -(-g.kept // block) == -(-g.size // block)]  # fmt: skip
    if 2 * len(uneven) > sum(g.kept < g.size for g in plan.groups):
        return f"most groups keep as many blocks of {block} channels as they had; remove more, or use --max-latency"
    left = measured.after.flops / max(measured.before.flops, 1)
    return (
        f"FLOPs are {left:.0%} of what they were, and the time is not in them: memory that is moved and the cost of each "
        "op stay; surgeon bench --profile shows where it goes"
    )
