"""Criteria on gradients of a loss: what a first or second order expansion says that a channel's removal costs.

The loss is the user's, that of the labels, or the network's own prediction (`surgeon.score.loss`). Gradients are taken example by example.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from surgeon.errors import BadInput
from surgeon.grouping import Group, Member
from surgeon.score.evidence import Evidence
from surgeon.score.reduce import Array, Shares, shares
from surgeon.score.registry import criterion
from surgeon.score.slopes import Place

_READS = "gradients"


@criterion("gradient", reads=_READS, paper="Liu and Wu 2019, Signal Processing 156")
def gradient(group: Group, evidence: Evidence) -> Shares:
    """Mean absolute gradient, summed over each channel's weights.

    [members, channels], in units of the loss a unit of weight.
    """
    return _summed(group, evidence, evidence.slopes.magnitude)


@criterion("taylor", reads=_READS, paper="Molchanov et al. 2019, arXiv 1906.10771")
def taylor(group: Group, evidence: Evidence) -> Shares:
    """Squared first order change of the loss when a channel's weights become zero: (sum of w g)^2, mean over examples.

    [members, channels], in squared units of the loss.
    """
    members, table = _members(group, evidence), evidence.slopes.squared
    return _of_members(group, [(m, table[group.name, _place(m)]) for m in members])


@criterion("taylor-gate", reads=_READS, paper="Molchanov et al. 2017, arXiv 1611.06440")
def gate(group: Group, evidence: Evidence) -> Shares:
    """Absolute first order change of the loss when a gate on the channel closes: the sum of activation x gradient over
    an example's positions, mean over examples, at the layers that take the channel.

    [layers, channels], in units of the loss. A layer is linear in its weights, so that this sum is that of
    weight x gradient of the weights that take the channel, and no activation is kept. Where no layer takes it, at those
    that make it.
    """
    table = evidence.slopes.absolute
    known = [m for m in group.members if (group.name, _place(m)) in table]
    taking = [m for m in known if m.role == "takes"]
    making = [m for m in known if m.role == "makes"]
    members = taking or making or known
    if not members:
        raise _nothing(group)
    return _of_members(group, [(m, table[group.name, _place(m)]) for m in members])


@criterion("fisher", reads=_READS, paper="Theis et al. 2018, arXiv 1801.05787")
def fisher(group: Group, evidence: Evidence) -> Shares:
    """Second order change of the loss with the diagonal of the Fisher information in the Hessian's place: sum of w^2 E[g^2] / 2.

    [members, channels], in units of the loss (a log likelihood).
    """
    table = {place: values / 2 for place, values in evidence.slopes.fisher.items()}
    return _summed(group, evidence, table)


@criterion("hessian", reads=_READS, paper="LeCun et al. 1990, Optimal Brain Damage")
def hessian(group: Group, evidence: Evidence) -> Shares:
    """Second order change of the loss: sum of w^2 h / 2, h the diagonal of the Hessian (Hutchinson's estimate).

    [members, channels], in units of the loss of a batch. May be below zero where the loss is not convex.
    """
    table = evidence.curvature
    members = [m for m in evidence.members(group) if _place(m) in table]
    if not members:
        raise _nothing(group)
    return _rows(group, members, table)


def _summed(group: Group, evidence: Evidence, table: Mapping[Place, Array]) -> Shares:
    return _rows(group, _members(group, evidence), table)


def _rows(group: Group, members: list[Member], table: Mapping[Place, Array]) -> Shares:
    sums: list[tuple[Member, Array]] = []
    for m in members:
        total = np.bincount(m.channel, table[_place(m)][m.at], group.size)
        sums.append((m, total.astype(np.float64)))
    return _of_members(group, sums)


def _of_members(group: Group, rows: list[tuple[Member, Array]]) -> Shares:
    held = (np.bincount(m.channel, minlength=group.size) > 0 for m, _ in rows)
    return shares([(s, h) for (_, s), h in zip(rows, held, strict=True)], group.size)


def _members(group: Group, evidence: Evidence) -> list[Member]:
    """The members that `by` asks for and that have a gradient; else any that has."""
    table = evidence.slopes.magnitude
    asked = [m for m in evidence.members(group) if _place(m) in table]
    asked = asked or [m for m in group.members if _place(m) in table]
    if not asked:
        raise _nothing(group)
    return asked


def _nothing(group: Group) -> BadInput:
    return BadInput(
        f"the loss has no gradient at any weight of {group.name}",
        "take a criterion on weights or activations, or --ignore the layer",
    )


def _place(member: Member) -> Place:
    return member.state, member.dim
