"""The lines that people read after a shrink."""

import torch
from nets import draw
from torch import nn

import surgeon


def test_groups_that_are_not_exact_are_counted():
    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    said = "not exact: 1 group is mixed by softmax or a norm: what stays is computed anew"
    results = [surgeon.shrink(n, draw(2, 6), 0.5, measure=False) for n in (normed, plain)]
    assert [said in r.summary() for r in results] == [True, False]
    assert [all(g.exact for g in r.plan.groups) for r in results] == [False, True]
