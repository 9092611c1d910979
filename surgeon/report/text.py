"""A result in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surgeon.measure import Measurement
    from surgeon.shrink import Result


def summary(result: Result) -> str:
    """Asked and reached, proof, cost before and after, what stayed."""
    lines = [f"{key}: {share:.1%} removed" for key, share in result.reached().items()]
    cut = sum(g.kept < g.size for g in result.plan.groups)
    lines.append(f"groups: {cut} cut, {len(result.plan.left)} left alone")
    lines.append(f"surgery: {result.way}" + (f" ({result.why})" if result.why else ""))
    if result.check:
        lines.append(f"proven: error {result.check.error:.1e} of the output's range in {result.check.dtype}")
    if result.measured:
        lines += [f"{a}: {b} -> {c}" for a, b, c in rows(result.measured.before, result.measured.after)]
    return "\n".join([*lines, *(f"note: {n}" for n in result.notes)])


def rows(before: Measurement, after: Measurement) -> list[tuple[str, str, str]]:
    """(what, before, after) for a table."""
    out = [
        ("parameters", f"{before.params:,}", f"{after.params:,}"),
        ("FLOPs (a multiply-add is one)", f"{before.flops:,}", f"{after.flops:,}"),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
        ("state, bytes", f"{before.bytes:,}", f"{after.bytes:,}"),
    ]
    if before.onnx_bytes is not None and after.onnx_bytes is not None:
        out.append(("ONNX file, bytes", f"{before.onnx_bytes:,}", f"{after.onnx_bytes:,}"))
    if before.peak_memory is not None and after.peak_memory is not None:
        out.append(("peak memory, bytes", f"{before.peak_memory:,}", f"{after.peak_memory:,}"))
    if before.latency is not None and after.latency is not None:
        out.append(("latency, ms", _ms(before), _ms(after)))
    return out


def _ms(m: Measurement) -> str:
    assert m.latency is not None
    t = m.latency
    return f"{t.median_s * 1e3:.3f} [{t.low_s * 1e3:.3f}, {t.high_s * 1e3:.3f}]"
