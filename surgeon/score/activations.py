"""Criteria on what the original computes on the data, at what reads the channels (else at what makes them)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from surgeon.distinct import distinct
from surgeon.grouping import Group
from surgeon.score.evidence import Evidence
from surgeon.score.points import Point
from surgeon.score.reduce import Array, Shares, shares
from surgeon.score.registry import criterion
from surgeon.score.statistics import Gram, Moments, Ranks

_READS = "activations"
RIDGE = 1e-6  # of the mean variance: what is a sum of others exactly stays invertible


@criterion("activation", reads=_READS, paper="Molchanov et al. 2017, arXiv 1611.06440")
def magnitude(group: Group, evidence: Evidence) -> Shares:
    """Mean absolute activation of each channel, at the layers that take it.

    [points, channels], in units of the activation.
    """
    found = evidence.seen(group, Moments)
    return _rows(group, [(p, s.magnitudes / s.count) for p, s in found])


@criterion("variance", reads=_READS, paper="Polyak and Wolf 2015, IEEE Access 3")
def variance(group: Group, evidence: Evidence) -> Shares:
    """Variance of each channel's activation: one that never changes can be put into a bias.

    [points, channels], in squared units of the activation, over examples and positions.
    """
    return _rows(group, [(p, s.variance) for p, s in evidence.seen(group, Moments)])


@criterion("apoz", reads=_READS, paper="Hu et al. 2016, arXiv 1607.03250")
def apoz(group: Group, evidence: Evidence) -> Shares:
    """One less the average percentage of zeros: the share of a channel's activations that are not zero, after the nonlinearity.

    [points, channels] in [0, 1]. It tells channels apart only where a nonlinearity gives exact zeros (ReLU).
    """
    found = evidence.seen(group, Moments)
    return _rows(group, [(p, s.active / s.count) for p, s in found])


@criterion("rank", reads=_READS, paper="Lin et al. 2020, arXiv 2002.10179")
def rank(group: Group, evidence: Evidence) -> Shares:
    """Mean rank of each channel's feature maps.

    [points, channels], from 0 to the smaller side of a map. Tokens are maps of one row.
    """
    found = evidence.seen(group, Ranks)
    return _rows(group, [(p, s.sum / s.count) for p, s in found])


@criterion("mutual-information", reads=_READS, paper="Fan et al. 2021, arXiv 2108.12594")
def mutual_information(group: Group, evidence: Evidence) -> Shares:
    """Mutual information of a channel's mean activation on an example with the example's class (its label, else the
    network's own prediction).

    [points, channels] in nats: log(variance / variance within classes) / 2, which it is where classes are Gaussians of one width.
    """
    rows = []
    for point, classes in evidence.classes(group):
        whole, within = classes.variances
        nats = torch.log(whole / torch.maximum(within, 1e-6 * whole)) / 2
        rows.append((point, torch.where(whole > 0, nats, 0.0)))
    return _rows(group, rows)


@criterion("reconstruction", reads=_READS, paper="He et al. 2017, arXiv 1707.06168")
def reconstruction(group: Group, evidence: Evidence) -> Shares:
    """What the layer that takes a channel loses when the channel is rebuilt from all others by least squares.

    [points, channels], in squared units of that layer's output, a position: the variance of the channel that the others (and a constant) leave
    unexplained, times the squared norm of the weights that take it; where no layer takes it, the variance alone. Neighbouring positions of a kernel count as independent.
    """
    rows = []
    for point, gram in evidence.seen(group, Gram):
        left = unexplained(gram.covariance, point)
        if point.taken:
            member = point.member
            sums = evidence.power_sums(member, 2)[member.at]
            left = left * np.bincount(member.channel, sums, group.size)
        rows.append((left, point.held))
    return shares(rows, group.size)


def unexplained(covariance: Tensor, point: Point) -> Array:
    """The variance of each channel that all other channels leave over, a mean over its positions: [channels].

    covariance: [extent, extent]. By the inverse: what is left of a block is the inverse of the inverse's block.
    """
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
    if len(distinct(point.channel)) == len(point.channel):
        return point.per_channel((1 / inverse.diagonal()).numpy())
    out = np.zeros(point.size)
    for channel in range(point.size):
        at = torch.from_numpy(point.at[point.channel == channel])
        if len(at):
            block = torch.linalg.inv(inverse[at][:, at])
            out[channel] = float(block.diagonal().mean())
    return out


def _rows(group: Group, found: list[tuple[Point, Tensor]]) -> Shares:
    return shares([(p.per_channel(values.numpy()), p.held) for p, values in found], group.size)
