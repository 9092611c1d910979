"""Criteria that look at weights by themselves: how large they are, and chance."""

from __future__ import annotations

import numpy as np

from surgeon.grouping import Group, Member
from surgeon.score.evidence import Evidence
from surgeon.score.reduce import Array, Shares, lamp, shares
from surgeon.score.registry import criterion
from surgeon.score.weights import Weights

SLIMMING = "Liu et al. 2017, arXiv 1708.06519"


@criterion("l1", paper="Li et al. 2017, arXiv 1608.08710")
def l1(group: Group, weights: Weights) -> Shares:
    """Sum of the absolute weights of each channel.

    [members, channels], in units of the weights.
    """
    return _norm(group, weights, 1)


@criterion("l2", paper="Fang et al. 2023, arXiv 2301.12900")
def l2(group: Group, weights: Weights) -> Shares:
    """Euclidean norm of each channel's weights.

    [members, channels], in units of the weights.
    """
    return _norm(group, weights, 2)


@criterion("linf", paper="none: a norm beside the others")
def linf(group: Group, weights: Weights) -> Shares:
    """The largest absolute weight of each channel.

    [members, channels], in units of the weights.
    """
    rows = []
    for member in weights.members(group):
        out = np.zeros(group.size)
        np.maximum.at(out, member.channel, weights.power_sums(member, np.inf)[member.at])
        rows.append((out, _held(member, group)))
    return shares(rows, group.size)


@criterion("random", paper="Mittal et al. 2018, arXiv 1801.10447")
def random(group: Group, weights: Weights) -> Array:
    """Uniform in [0, 1): the baseline that any criterion must beat.

    [channels], no unit; the same for the same seed.
    """
    return weights.random.random(group.size)


@criterion("lamp", paper="Lee et al. 2021, arXiv 2010.07611", normalise="none")
def layer_adaptive(group: Group, weights: Weights) -> Shares:
    """Squared norm over the squared norms of all channels of the layer that are not smaller.

    [members, channels] in (0, 1]. It orders a layer as l2 does; what differs is how layers compare (scope global).
    """
    rows = []
    for member in weights.members(group):
        sums = weights.power_sums(member, 2)[member.at]
        squared, held = np.bincount(member.channel, sums, group.size), _held(member, group)
        squared[held] = lamp(np.asarray(squared[held], np.float64))
        rows.append((squared, held))
    return shares(rows, group.size)


@criterion("norm-scale", paper=SLIMMING)
def norm_scale(group: Group, evidence: Evidence) -> Shares | None:
    """Absolute scale of the batch norm (or layer, group, RMS norm) that the channels go through.

    [norms, channels], no unit. None for groups that go through no norm with a scale.
    """
    scales = [m for m in group.members if (m.state, m.dim) in evidence.scales]
    rows = []
    for member in scales:
        sums = evidence.power_sums(member, 1)[member.at]
        held = _held(member, group)
        count = np.maximum(np.bincount(member.channel, minlength=group.size), 1)
        rows.append((np.bincount(member.channel, sums, group.size) / count, held))
    return shares(rows, group.size) if rows else None


def _norm(group: Group, weights: Weights, p: int) -> Shares:
    """The p-norm of what each channel has in each member."""
    rows = []
    for member in weights.members(group):
        sums = weights.power_sums(member, p)[member.at]
        total = np.bincount(member.channel, sums, group.size) ** (1 / p)
        rows.append((total, _held(member, group)))
    return shares(rows, group.size)


def _held(member: Member, group: Group) -> np.ndarray:
    """Which channels a member holds: bool [channels]."""
    return np.bincount(member.channel, minlength=group.size) > 0
