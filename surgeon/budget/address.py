"""From what people write (layer paths, globs, positions) to groups and channels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from surgeon.couple import Coupling
from surgeon.errors import BadInput, OutOfReach
from surgeon.grouping import Group, Member
from surgeon.kinds import KINDS

Ids = NDArray[np.int64]


def layers_of(group: Group) -> set[str]:
    """Paths by which a group can be named: its own, every layer that makes its channels, and the module
    that holds a tensor which does (an LSTM's `weight_hh_l0`)."""
    makers = {m.state for m in group.members if m.role == "makes"}
    return {group.name, *map(_layer, makers), *(m.rpartition(".")[0] for m in makers if "." in m)}


def kinds_of(group: Group) -> set[str]:
    """The same with the group's kind: 'blocks.0.attn.q:heads', 'blocks.0.mlp.fc1:mlp'."""
    layers = {n.partition(":")[0].partition("#")[0] for n in layers_of(group)}
    return {group.name, *(f"{layer}:{group.kind}" for layer in layers)}


def matching(groups: Sequence[Group], glob: str) -> list[Group]:
    """Groups that a path or glob names; BadInput with the nearest names where there are none.

    'blocks.0.*' names layers, 'blocks.0.*:heads' the groups of a kind that they make.
    """
    found = [g for g in groups if any(fnmatchcase(n, glob) for n in layers_of(g) | kinds_of(g))]
    if found:
        return found
    names = layers_of if ":" not in glob else kinds_of
    raise BadInput(
        f"no layer matches '{glob}'", nearest(glob, sorted({n for g in groups for n in names(g)}))
    )


def by_itself(group: Group, globs: Iterable[str]) -> bool:
    """Whether a glob names this very group, not just a layer that makes it."""
    own = kinds_of(group)
    return any(
        glob == group.name
        or ((":" in glob or "#" in glob) and any(fnmatchcase(n, glob) for n in own))
        for glob in globs
    )


def cuttable(groups: Sequence[Group], glob: str) -> list[Group]:
    """Groups that a path or glob names and that may be cut; OutOfReach with the reason where none may."""
    found = matching(groups, glob)
    free = [g for g in found if g.why_not is None]
    if not free:
        raise OutOfReach(f"'{glob}' cannot be cut: {found[0].why_not}")
    return free


def nearest_of(word: str, words: Sequence[str]) -> str:
    """The word that comes closest, the first where none does."""
    return (difflib.get_close_matches(word, words, 1, 0.4) or [words[0]])[0]


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint that names what comes close."""
    names = list(names)
    close = difflib.get_close_matches(name, names, 3, 0.4) or names[:3]
    return f"did you mean {', '.join(close)}?" if close else "surgeon inspect lists the layers"


def positions(
    coupling: Coupling, groups: Sequence[Group], remove: Mapping[str, Sequence[int]]
) -> dict[str, Ids]:
    """Channels of each group that go when these positions of these layers go, by group name.

    'layer1.0.conv1' means its output channels, 'layer2.0.conv1:in' its input kernels, 'attn.qkv:heads'
    its heads.
    """
    chosen: dict[str, set[int]] = {}
    for address, wanted in remove.items():
        here = sorted(set(wanted))
        group = _group_at(groups, address)
        found = _channels(group, address, here) if group else _at(coupling, groups, address, here)
        for name, channels in found.items():
            chosen.setdefault(name, set()).update(channels)
    return {name: np.array(sorted(c), np.int64) for name, c in chosen.items()}


def _group_at(groups: Sequence[Group], address: str) -> Group | None:
    """The group whose own channels an address counts ('q:heads', 'conv#2'); None where it names a layer."""
    layer, _, side = address.partition(":")
    kind = side.partition("#")[0]
    if kind not in KINDS and "#" not in layer:
        return None
    found = [g for g in groups if g.name == address] or [
        g for g in groups if address in kinds_of(g)
    ]
    if len(found) == 1:
        return found[0]
    names = [g.name for g in found] or sorted({n for g in groups for n in kinds_of(g)})
    what = "names several groups" if found else "names no group"
    raise BadInput(f"'{address}' {what}", nearest(address, names))


def _channels(group: Group, address: str, wanted: list[int]) -> dict[str, set[int]]:
    """Channels of a group in the order in which the addressed layer holds them."""
    _in_range(address, wanted, group.size)
    if group.why_not is not None:
        raise OutOfReach(f"'{address}' cannot be cut: {group.why_not}")
    layer = address.partition(":")[0]
    here = [m for m in group.members if _layer(m.state) == layer and m.role != "takes"]
    member = (here or list(group.members))[0]
    first = np.full(group.size, member.at.max(initial=0))
    np.minimum.at(first, member.channel, member.at)
    return {group.name: set(np.argsort(first, kind="stable")[wanted].tolist())}


def _in_range(address: str, wanted: list[int], size: int) -> None:
    if not wanted or wanted[0] < 0 or wanted[-1] >= size:
        beyond = [i for i in wanted if not 0 <= i < size]
        asked = ", ".join(map(str, beyond[:8])) or "none"
        raise BadInput(
            f"'{address}' has channels 0 to {size - 1}, not {asked}",
            "surgeon inspect lists the layers and their channels",
        )


def _at(
    coupling: Coupling, groups: Sequence[Group], address: str, wanted: list[int]
) -> dict[str, set[int]]:
    state, dim = _axis(groups, address)
    size = coupling.graph.state[state].shape[dim]
    _in_range(address, wanted, size)
    goes = np.zeros(size, bool)
    goes[wanted] = True
    covered = np.zeros(size, bool)
    found: dict[str, set[int]] = {}
    here = ((g, m) for g in groups for m in g.members if (m.state, m.dim) == (state, dim))
    for group, member in here:
        hit = _whole_channels(group, member, goes)
        covered[member.at[np.isin(member.channel, hit)]] = True
        if len(hit) and group.why_not is not None:
            raise OutOfReach(f"'{address}' cannot be cut: {group.why_not}")
        if len(hit):
            found[group.name] = set(hit.tolist())
    missed = [i for i in wanted if not covered[i]]
    if missed:
        raise OutOfReach(
            f"channels {missed[:8]} of '{address}' cannot go by themselves: others go with them",
            "surgeon inspect shows what is coupled; name all positions of a channel",
        )
    return found


def _whole_channels(group: Group, member: Member, goes: NDArray[np.bool_]) -> Ids:
    """Channels of a group all of whose positions here were named."""
    whole = np.zeros(group.size, bool)
    whole[member.channel] = True
    whole[member.channel[~goes[member.at]]] = False
    return np.flatnonzero(whole)


def _axis(groups: Sequence[Group], address: str) -> tuple[str, int]:
    layer, _, side = address.partition(":")
    roles = ("takes",) if side == "in" else ("makes", "along")
    if side not in ("", "in"):
        raise BadInput(
            f"'{address}' has an unknown side ':{side}'",
            f"write layer or layer:in, or a kind: layer:{nearest_of(side, KINDS)}",
        )
    own = [m for g in groups for m in g.members if _layer(m.state) == layer]
    for role in roles:
        found = [m for m in own if m.role == role]
        if found:  # of a kernel that spans all there is, space is taken too
            return min((m.state, m.dim) for m in found if m.state == found[0].state)
    names = sorted({_layer(m.state) for g in groups for m in g.members})
    raise BadInput(f"no layer '{layer}' with channels to cut", nearest(layer, names))


def _layer(state: str) -> str:
    head, _, tail = state.rpartition(".")
    return head if tail in ("weight", "bias") and head else state
