"""Which eight bits a processor multiplies fast and rightly: one kind a target."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from difflib import get_close_matches

from surgeon.errors import BadInput
from surgeon.runner.probe import cpuinfo

_DOT = {"avx512_vnni", "avx_vnni", "avx10_2", "amx_int8"}


@dataclass(frozen=True)
class Kind:
    """signed: activations from -128, else from 0. narrow: weights of seven bits. Weights are signed, with a scale a channel."""

    name: str
    signed: bool
    narrow: bool
    why: str

    @property
    def said(self) -> str:
        """'U8S8 by channel, weights of 7 bits'."""
        bits = ", weights of 7 bits" if self.narrow else ""
        return f"{'S8' if self.signed else 'U8'}S8 by channel{bits}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("x86-vnni", False, False, "VNNI adds products of U8 and S8 in 32 bits"),
        Kind("x86", False, True, "without VNNI, sums of two products of 8 bits overflow 16 bits"),
        Kind("arm", True, False, "ARM multiplies signed numbers"),
    )
}


def kind_of(name: str | None) -> Kind:
    """The kind for a target, for this machine where none is named; BadInput for one that is not there."""
    if name is None:
        return KINDS[here()]
    if name not in KINDS:
        near = get_close_matches(name, KINDS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}"
        raise BadInput(f"--target {name!r} does not exist", hint)
    return KINDS[name]


def here() -> str:
    """The target that this machine is."""
    if platform.machine().lower() in ("aarch64", "arm64", "armv7l", "armv8l"):
        return "arm"
    return "x86-vnni" if _DOT & set(cpuinfo("flags").split()) else "x86"
