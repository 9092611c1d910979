"""`surgeon inspect`: look before you cut."""

from __future__ import annotations

from surgeon.cli import options as o
from surgeon.cli.screen import Screen


def inspect(
    model: o.Model,
    arch: o.Arch = None,
    input: o.Input = None,
    allow: o.Allow = None,
    unsafe_pickle: o.UnsafePickle = False,
    threads: o.Threads = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show the layers and what they cost, and every group of channels that must be cut together."""
    from surgeon.pipeline.traced import trace
    from surgeon.report import tables, text
    from surgeon.report.structure import structure

    screen = Screen(json, quiet)
    source = o.opening(arch, input, allow, unsafe_pickle, threads).open(model, screen)
    screen.step("trace and couple")
    found = structure(trace(source.model, source.inputs), source.model, source.inputs)
    found["notes"] = [*source.notes, *found["notes"]]
    screen.notes(found["notes"])
    screen.show(tables.layers(found["layers"]), "", tables.groups(found["groups"]), "")
    unknown = ", ".join(found["unknown_ops"]) or "none"
    screen.show(
        f"total: {found['params']:,} parameters, {found['flops']:,} FLOPs, {found['macs']:,} MACs",
        *text.reach(found["reach"]),
        *text.sparsity(found["sparsity"]),
        f"ops without a channel rule: {unknown}",
        *(
            f"equal in number, as the forward splits them evenly: {' = '.join(t)}"
            for t in found["ties"]
        ),
        text.PLANNED,
    )
    screen.data(found)
