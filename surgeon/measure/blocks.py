"""Widths that a target's kernels like: channels come in blocks, and a started block costs as much as a whole one."""

from __future__ import annotations

from surgeon.budget.align import block_of_this_cpu
from surgeon.devices import open_device
from surgeon.measure.target import Target

# Runtimes whose convolutions work on blocks of a vector register on x86; elsewhere widths cost what they are, and
# multiples of 8 fill the registers of any CPU that is in use.
_BLOCKED = ("ort", "openvino", "torch", "torch-compile")
_OTHERS = 8


def known_block(target: Target) -> int:
    """Channels that count together in convolutions on this target, as far as is known without a measurement."""
    if target.runtime not in _BLOCKED:
        return _OTHERS
    if target.device == "local":
        return block_of_this_cpu()
    machine = str(open_device(target.device).probe().get("machine"))
    return 16 if machine in ("x86_64", "AMD64") else _OTHERS
