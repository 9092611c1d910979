"""What --equal keeps equal: groups of one kind and one make, and what the heads of one attention hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import prod

from surgeon.grouping import Group


def equal_sets(groups: Sequence[Group], kinds: Collection[str]) -> list[frozenset[str]]:
    """Sets of groups, by name, that keep equally many channels where these kinds are to be equal.

    Every layer of one make has one number; q's and v's head_dim too, where one head holds as much of
    both, since configs have one number for them (a rotated pair of q counts as two).
    """
    makes: dict[tuple[str, int, int], set[str]] = {}
    for g in groups:
        if g.kind in kinds:
            makes.setdefault((g.kind, g.key, g.size), set()).add(g.name)
    sets = list(makes.values())
    if "head_dim" in kinds:
        sets += _of_one_attention(groups)
    return [frozenset(names) for names in sets if len(names) > 1]


def _of_one_attention(groups: Sequence[Group]) -> Iterator[set[str]]:
    by_name = {g.name: g for g in groups}
    for heads in groups:
        held: dict[int, set[str]] = {}
        for name in heads.partners if heads.kind == "heads" else ():
            if by_name[name].kind == "head_dim":
                held.setdefault(_extent(by_name[name], by_name), set()).add(name)
        yield from held.values()


def _extent(group: Group, by_name: dict[str, Group]) -> int:
    """Positions of a group in the layer that makes it, within one channel of every other factor."""
    member = next((m for m in group.members if m.role == "makes"), group.members[0])
    at = (member.state, member.dim)
    partners = [by_name[n] for n in group.partners]
    others = [p.size for p in partners if at in {(m.state, m.dim) for m in p.members}]
    return len(member.at) // prod(others)
