"""Mixtures of experts, of which one example's tokens reach a few: all are cut, proven, and loaded again."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgeon
from surgeon.errors import CheckFailed, Unproven


class Experts(nn.Module):
    """Each token goes to the best two of many small networks, one after the other: f32[N, T, C] -> f32[N, T, 3]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.stem, self.gate, self.last = nn.Linear(16, 24), nn.Linear(24, count), nn.Linear(24, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(0, 1)
        weight, chosen = self.gate(tokens).softmax(-1).topk(2, -1)
        mask = F.one_hot(chosen, self.count).permute(2, 1, 0)
        out = torch.zeros_like(tokens)
        for n in (mask.sum((-1, -2)) > 0).nonzero().flatten():
            kth, token = torch.where(mask[n])
            out.index_add_(0, token, self.experts[n](tokens[token]) * weight[token, kth, None])
        return self.last(out.view_as(x) + x)


def experts(count: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Experts(count).eval()


X = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [2, 8, 12])
def test_all_are_cut_alike(count: int, tmp_path: Path):
    model = experts(count)
    result = surgeon.shrink(model, X, 0.5, measure=False)
    assert result.way == "module"
    assert result.check is not None
    assert {tuple(e[0].weight.shape) for e in result.model.experts} == {(20, 12)}
    assert not any("not used" in note or "training" in note for note in result.notes)
    assert result.model(torch.randn(50, 7, 16)).shape == (50, 7, 3)  # tokens for every expert
    surgeon.save(result, tmp_path / "slim.pth")
    loaded = surgeon.load(tmp_path / "slim.pth", model=experts(count, seed=1))
    assert torch.equal(loaded(X), result.model(X))


@pytest.fixture(scope="module")
def eight() -> tuple[nn.Module, surgeon.Result]:
    model = experts(8)
    return model, surgeon.shrink(model, X, 0.5, measure=False)


@pytest.mark.parametrize("at", range(8))
def test_a_fault_in_any_expert_is_found(at: int, eight: tuple[nn.Module, surgeon.Result]):
    model, result = eight
    slim = copy.deepcopy(result.model)
    with torch.no_grad():
        slim.experts[at][2].bias[0] += 1e-3
    with pytest.raises(CheckFailed):
        surgeon.check(model, slim, result.plan, X)


class Skipped(nn.Module):
    """Experts that are asked where rows are theirs, by the shape of what was found: no number is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.last = nn.Linear(16, 24), nn.Linear(24, 2), nn.Linear(24, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24)) for _ in range(2)
        )
        with torch.no_grad():
            self.gate.bias.copy_(torch.tensor([99.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        best, out = self.gate(x).argmax(-1), x
        for n, expert in enumerate(self.experts):
            rows = (best == n).nonzero()[:, 0]
            if rows.numel():
                out = out.index_copy(0, rows, expert(x[rows]))
        return self.last(out)


@pytest.mark.parametrize("at", range(2))
def test_a_fault_in_an_expert_that_shapes_skip_is_found(at: int):
    torch.manual_seed(0)
    model, x = Skipped().eval(), torch.randn(8, 16)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    assert result.check is not None
    assert result.check.notes == ("also compared with random weights",)  # its own hide nothing
    if result.model.experts[at][2].weight.shape != model.experts[at][2].weight.shape:
        with torch.no_grad():
            result.model.experts[at][2].bias[0] += 1e-1
        with pytest.raises((CheckFailed, Unproven)):
            surgeon.check(model, result.model, result.plan, x)
