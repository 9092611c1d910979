"""Models without weights: traced, coupled and planned from shapes alone; what needs numbers says so. Work grows with depth, no faster."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import surgeon
from surgeon.errors import BadInput
from surgeon.plan import Plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from models.language import BILLION, Config, Language, on_meta

torch.set_num_threads(1)
IDS = torch.zeros(2, 7, dtype=torch.long)


def test_a_model_on_meta_is_planned_as_one_with_weights():
    empty = surgeon.propose(on_meta(Config()), IDS, 0.5, criterion="random")
    full = surgeon.propose(Language(Config()).eval(), IDS, 0.5, criterion="random")
    assert empty.plan == full.plan
    assert empty.plan.removed > 100
    assert empty.traced.unknown == ()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_its_plan_cuts_the_model_once_it_has_weights(device: str):
    plan = surgeon.propose(on_meta(Config()), IDS.to(device), 0.5, criterion="random").plan
    torch.manual_seed(0)
    model = Language(Config()).eval()
    slim = surgeon.apply(Plan.from_json(plan.to_json()), model, IDS)
    assert surgeon.check(model, slim, plan, IDS).error < 1e-9
    assert sum(p.numel() for p in slim.parameters()) < 0.6 * sum(
        p.numel() for p in model.parameters()
    )


def test_a_meta_model_is_cut_on_meta():
    slim = surgeon.shrink(
        on_meta(Config()), IDS, 0.5, criterion="random", check=False, measure=False
    ).model
    assert all(p.is_meta for p in slim.parameters())


def test_what_reads_numbers_says_that_there_are_none():
    model = on_meta(Config())
    with pytest.raises(BadInput, match="on the meta device: it has no values") as caught:
        surgeon.propose(model, IDS, 0.5)
    assert "criterion='random'" in (caught.value.hint or "")
    with pytest.raises(BadInput, match="cannot be proven or measured"):
        surgeon.shrink(model, IDS, 0.5, criterion="random")


def test_no_weight_is_read(monkeypatch: pytest.MonkeyPatch):
    """Nothing of a large state may be copied to make a plan."""
    model = Language(Config()).eval()

    def refuse(self: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        raise AssertionError(f"a weight of shape {list(self.shape)} was copied")

    monkeypatch.setattr(nn.Parameter, "clone", refuse)
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    monkeypatch.setattr(nn.Parameter, "numpy", refuse)
    assert surgeon.propose(model, IDS, 0.5, criterion="random").plan.keep


def test_the_large_one_is_large():
    assert sum(p.numel() for p in on_meta(BILLION).parameters()) > 1_000_000_000


def elements(layers: int) -> np.ndarray:
    """How many ops, ids, equalities and products a model of this depth takes."""
    traced = surgeon.trace(on_meta(Config(layers=layers)), IDS)
    algebra = traced.coupling.algebra
    ids = sum(len(a) for a, _ in algebra._equal) + sum(len(p.e) for p in algebra._products)
    reach = sum(len(m.at) for g in traced.groups for m in g.members)
    return np.array([len(traced.graph.nodes), algebra.count, ids, len(traced.groups), reach])


def test_work_grows_with_depth_no_faster():
    few, more, most = elements(2), elements(4), elements(8)
    assert np.array_equal(most - more, 2 * (more - few)), (few, more, most)
