"""Classes of elements -> groups of channels: those that reach the same axes are one group."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from surgeon.axes import POSITION, Axis
from surgeon.classes import Classes, Why
from surgeon.distinct import distinct
from surgeon.kinds import KINDS

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
NAMED = ("heads", "head_dim")  # kinds that stand in a group's name: a layer may make both


@dataclass(frozen=True)
class Use:
    """One dimension of one state tensor, as one node uses it.

    `role`: 'makes' (filters: the factor is new in the output), 'takes' (kernels: contracted away),
    'along' (a bias, a norm: passes through), 'opaque' (a kernel's own extent: never cut).
    """

    state: str
    dim: int
    role: str
    node: int
    op: str


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of a state tensor that a group reaches.

    Position `at[i]` of that dimension belongs to channel `channel[i]` of the group.
    """

    state: str
    dim: int
    role: str
    at: Ids
    channel: Ids


@dataclass(frozen=True, eq=False)
class _Table:
    """All (axis, position, atom) triples, sorted by group and axis: groups are runs of it."""

    axes: Sequence[Axis]
    roles: dict[tuple[str, int], str]
    axis: Ids
    at: Ids
    channel: Ids


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are cut together. `atoms[i]` is the class of channel i.

    `why_not` says why it may not be cut, `inexact` why cutting changes what stays; `kind` is one of
    `surgeon.kinds.KINDS`; `key` is equal for groups of the same make; `partners` are the other factors of the products it is a factor of.
    `placed`: some channels meet numbers that the code makes by position (frequencies), which only a program can hold.
    """

    name: str
    atoms: Ids
    why_not: str | None
    inexact: str | None
    kind: str
    key: int
    partners: tuple[str, ...]
    placed: bool
    _table: _Table
    _run: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.atoms)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Every state dimension that the group reaches, in order of first use."""
        t, (start, stop) = self._table, self._run
        axis = t.axis[start:stop]
        cuts = np.flatnonzero(np.diff(axis)) + 1
        ends = [0, *cuts.tolist(), len(axis)]
        out = []
        for a, b in pairwise(ends):
            state, dim = t.axes[int(axis[a])].label  # type: ignore[misc]
            role = t.roles.get((state, dim), "along")
            at, channel = t.at[start + a : start + b], t.channel[start + a : start + b]
            out.append(Member(state, dim, role, at, channel))
        return tuple(out)


def group_all(
    classes: Classes,
    axes: Sequence[Axis],
    uses: Sequence[Use],
    said: tuple[Callable[[Why], str], NDArray[np.str_], Mask],
) -> tuple[Group, ...]:
    """Every group that reaches a state tensor through a dimension that is not opaque.

    said: how a reason is put into words, the kind of every class, and which of them weights make or take.
    """
    roles, ops = _roles(uses)
    placed = _placed(classes, axes)
    axes = [a for a in axes if a.label == "factor" or _counts(a, roles)]
    state = np.array([a.label != "factor" for a in axes], bool)
    if not state.any():
        return ()
    axis, at, atom = _triples(classes, axes)
    gid, group_count = _group_ids(classes, axis, atom, state)
    real = state[axis]
    axis, at, atom = axis[real], at[real], atom[real]
    channel = _channels(gid, atom)
    order = np.lexsort((at, axis, gid[atom]))
    table = _Table(axes, roles, axis[order], at[order], channel[order])
    ends = np.searchsorted(gid[atom][order], np.arange(group_count + 1))
    by_group = np.argsort(gid, kind="stable")
    bounds = np.searchsorted(gid[by_group], np.arange(group_count + 1))
    groups = [
        _group(
            classes,
            by_group[bounds[k] : bounds[k + 1]],
            table,
            (int(ends[k]), int(ends[k + 1])),
            (*said, ops, placed),
        )
        for k in range(group_count)
    ]
    groups.sort(key=lambda g: int(g.atoms[0]) if len(g.atoms) else 0)
    return tuple(_partnered(classes, _unique(groups)))


def _placed(classes: Classes, axes: Sequence[Axis]) -> Mask:
    """Classes of elements that differ by position (frequencies)."""
    mask = np.zeros(classes.count, bool)
    for axis in axes:
        if axis.label == POSITION:
            mask[classes.label[axis.start : axis.start + axis.size]] = True
    return mask


def _roles(uses: Sequence[Use]) -> tuple[dict[tuple[str, int], str], dict[tuple[str, int], str]]:
    """First role that is not opaque of every state dimension, and the op that gave it."""
    roles: dict[tuple[str, int], str] = {}
    ops: dict[tuple[str, int], str] = {}
    for use in uses:
        key = (use.state, use.dim)
        if roles.get(key, "opaque") == "opaque":
            roles[key], ops[key] = use.role, use.op
    return roles, ops


def _counts(axis: Axis, roles: dict[tuple[str, int], str]) -> bool:
    return isinstance(axis.label, tuple) and roles.get(axis.label, "along") != "opaque"


def _triples(classes: Classes, axes: Sequence[Axis]) -> tuple[Ids, Ids, Ids]:
    """(axis, position, atom) for every position of every axis; a product element has several atoms."""
    ids = np.concatenate([np.arange(a.start, a.start + a.size) for a in axes])
    axis = np.repeat(np.arange(len(axes)), [a.size for a in axes])
    at = ids - np.array([a.start for a in axes])[axis]
    direct = ~classes.derived[classes.label[ids]]
    simple = (axis[direct], at[direct], classes.label[ids[direct]])
    if direct.all():
        return simple
    row = np.flatnonzero(~direct)
    reach = classes.atoms_of(np.arange(len(row)), classes.label[ids[row]], len(row)).tocoo()
    more = row[reach.row]
    return (
        np.concatenate([simple[0], axis[more]]),
        np.concatenate([simple[1], at[more]]),
        np.concatenate([simple[2], reach.col.astype(np.int64)]),
    )


def _group_ids(classes: Classes, axis: Ids, atom: Ids, state: NDArray[np.bool_]) -> tuple[Ids, int]:
    """Class -> group, -1 where it is in none: atoms that reach the same axes, frozen ones apart."""
    key = distinct(axis * classes.count + atom)
    pairs = np.divmod(key, classes.count)
    marks = np.random.default_rng(0).integers(1, 2**63, len(state), dtype=np.uint64)
    signature = np.zeros(classes.count, np.uint64)
    np.add.at(signature, pairs[1], marks[pairs[0]])
    signature[classes.frozen >= 0] ^= np.uint64(0x9E3779B97F4A7C15)
    touched = np.zeros(classes.count, bool)
    touched[pairs[1][state[pairs[0]]]] = True
    gid = np.full(classes.count, -1, np.int64)
    _, gid[touched] = np.unique(signature[touched], return_inverse=True)
    return gid, int(gid.max()) + 1


def _channels(gid: Ids, atom: Ids) -> Ids:
    """Index of each atom within its group, in order of class."""
    order = np.argsort(gid, kind="stable")
    first = np.searchsorted(gid[order], gid)
    rank = np.empty(len(gid), np.int64)
    rank[order] = np.arange(len(gid))
    return (rank - first)[atom]


def _group(
    classes: Classes,
    atoms: Ids,
    table: _Table,
    run: tuple[int, int],
    say: tuple[Callable[[Why], str], NDArray[np.str_], Mask, dict[tuple[str, int], str], Mask],
) -> Group:
    explain, kinds, weighed, ops, placed = say
    frozen, mixed = classes.frozen[atoms], classes.mixed[atoms]
    why = explain(classes.reasons[int(frozen[0])]) if (frozen >= 0).all() else None
    inexact = explain(classes.reasons[int(mixed.max())]) if mixed.max(initial=-1) >= 0 else None
    reached = [table.axes[i].label for i in distinct(table.axis[run[0] : run[1]])]
    if why is None and len(atoms) == 1:
        why = "a single channel, and one always stays"
    if why is None and not weighed[atoms].any():
        why = "tokens or positions: no weight makes or takes them as channels"
    here = bool(placed[atoms].any())
    made = any(table.roles.get(x) == "makes" for x in reached)  # type: ignore[arg-type]
    if why is None and here and not made:
        why = "numbers that the code makes by position, and no layer does"
    make = Counter((ops.get(x, ""), x[1], table.roles.get(x, "along")) for x in reached)  # type: ignore[index,arg-type]
    kind = min(kinds[atoms].tolist(), key=KINDS.index)
    return Group(
        _name(reached, table.roles, kind),  # type: ignore[arg-type]
        atoms,
        why,
        inexact,
        kind,
        zlib.crc32(repr((kind, sorted(make.items()))).encode()),
        (),
        here,
        table,
        run,
    )


def _name(reached: list[tuple[str, int]], roles: dict[tuple[str, int], str], kind: str) -> str:
    """Path of the first layer that makes the channels, else of the first tensor along them.

    A layer's heads and head_dim are named by their kind: 'attn.qkv:heads'.
    """
    for role in ("makes", "along", "takes"):
        for state, dim in reached:
            if roles.get((state, dim), "along") == role:
                head, _, tail = state.rpartition(".")
                layer = head if tail in ("weight", "bias") and head else state
                side = ":in" if role == "takes" else f":{kind}" if kind in NAMED else ""
                return layer + side
    return reached[0][0]


def _unique(groups: list[Group]) -> list[Group]:
    """Names told apart: a second group of the same layer is 'conv#2'."""
    seen: Counter[str] = Counter()
    out = []
    for g in groups:
        seen[g.name] += 1
        n = seen[g.name]
        out.append(g if n == 1 else replace(g, name=f"{g.name}#{n}"))
    return out


def _partnered(classes: Classes, groups: list[Group]) -> list[Group]:
    """Groups that are factors of one product know each other."""
    if not len(classes.le):
        return groups
    number = np.full(classes.count, -1, np.int64)
    for k, g in enumerate(groups):
        number[g.atoms] = k
    derived = np.flatnonzero(classes.derived)
    reach = classes.atoms_of(np.arange(len(derived)), derived, len(derived)).tocoo()
    rows, cols = reach.row, number[reach.col]
    real = cols >= 0
    ones = np.ones(int(real.sum()), np.int64)
    shape = (len(derived), len(groups))
    by_group = coo_array((ones, (rows[real], cols[real])), shape=shape).tocsr()
    both = (by_group.T @ by_group).tocoo()
    partners: dict[int, list[str]] = {}
    for a, b in zip(both.row.tolist(), both.col.tolist(), strict=True):
        if a != b:
            partners.setdefault(a, []).append(groups[b].name)
    return [
        replace(g, partners=tuple(partners[k])) if k in partners else g
        for k, g in enumerate(groups)
    ]
