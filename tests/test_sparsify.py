"""Masks by unit, scope, criterion and schedule; what they make faster is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nets import draw
from torch import nn

import surgeon
from surgeon.cli.main import run
from surgeon.data import open_data
from surgeon.errors import BadInput
from surgeon.pipeline.traced import trace
from surgeon.report import text
from surgeon.schedule import SCHEDULES, ratio_at
from surgeon.sparse.sparsify import Sparse, faster, sparsify
from surgeon.sparse.sparsity import sparsity

torch.set_num_threads(1)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    ).eval()


X = draw(2, 4, 4, 4)


@pytest.mark.parametrize(
    ("unit", "over"),
    [("weight", []), ("row", [3]), ("column", [2]), ("kernel", [2, 3]), ("stripe", [1]),
     ("shared-kernel", [0, 2, 3]), ("filter", [1, 2, 3])],
)  # fmt: skip
def test_units_go_whole_and_the_least_first(net: nn.Sequential, unit: str, over: list[int]) -> None:
    done = sparsify(net, Sparse(0.5, unit))
    weight, mask = net[0].weight, done.masks["0.weight"]
    score = weight.detach().abs().mean(over, keepdim=True) if over else weight.detach().abs()
    fate = mask.mean(over, keepdim=True) if over else mask
    assert set(fate.flatten().tolist()) == {0.0, 1.0}
    assert float(score[fate == 0].max()) <= float(score[fate == 1].min())
    assert abs(float(mask.mean()) - 0.5) < 0.01
    assert torch.equal(done.model[0].weight, weight * mask)  # type: ignore[index]


def test_blocks_and_patterns(net: nn.Sequential) -> None:
    blocks = sparsify(net, Sparse(0.5, "2x4")).masks["4.weight"]
    cells = blocks.reshape(2, 2, 8, 4).movedim(1, 2).reshape(16, 8)
    assert sorted(set(cells.mean(1).tolist())) == [0, 1] and float(blocks.mean()) == 0.5
    pattern = sparsify(net, Sparse(granularity="2:4")).masks["4.weight"]
    assert (pattern.reshape(-1, 4).sum(1) == 2).all()


def test_globally_layers_compete(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].weight.mul_(100)
    done = sparsify(net, Sparse(0.3, scope="global"))
    assert float(done.masks["0.weight"].mean()) > 0.98 > 0.8 > float(done.masks["2.weight"].mean())
    assert abs(done.sparsity - 0.3) < 0.01


def test_gradient_needs_data_and_follows_it(net: nn.Sequential) -> None:
    how = Sparse(0.5, criterion="gradient")
    with pytest.raises(BadInput, match="needs data"):
        sparsify(net, how)
    done = sparsify(net, how, [X])
    weight = net[4].weight
    (grad,) = torch.autograd.grad(net(X).square().mean(), weight)
    score, mask = (weight * grad).detach().abs(), done.masks["4.weight"]
    assert float(score[mask == 0].max()) <= float(score[mask == 1].min())


def test_masks_by_torch_prune_go_on_from_masks(net: nn.Sequential) -> None:
    first = sparsify(net, Sparse(0.3, hooks=True)).model
    second = sparsify(first, Sparse(0.6, hooks=True))
    assert hasattr(second.model[0], "weight_orig")  # type: ignore[index]
    assert abs(second.sparsity - 0.6) < 0.01
    assert bool((first[0].weight_mask >= second.masks["0.weight"]).all())  # type: ignore[index,operator]
    assert first(X).shape == (2, 4)


def test_schedules() -> None:
    for name in SCHEDULES:
        path = [ratio_at(name, s, 10) for s in range(11)]
        assert path[0] == pytest.approx(0) and path[-1] == pytest.approx(1)
        assert path == sorted(path)
    assert ratio_at("linear", 1, 4) == 0.25
    assert ratio_at("polynomial", 1, 2) == 0.875
    assert sparsify(
        nn.Sequential(nn.Linear(10, 10)), Sparse(0.8, step=1, steps=4)
    ).sparsity == pytest.approx(0.2)
    with pytest.raises(BadInput, match="no schedule"):
        ratio_at("quick", 1, 2)


@pytest.mark.parametrize(
    "wrong", [{"granularity": "kernels"}, {"scope": "all"}, {"ratio": 1.0}, {"granularity": "4:2"}]
)
def test_what_does_not_exist_is_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        Sparse(**wrong)


def test_what_gets_faster_is_said() -> None:
    assert "2:4" in faster(Sparse(granularity="2:4"))
    assert "nothing" in faster(Sparse())


def test_filters_can_be_removed_single_weights_cannot(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].bias.fill_(-1)
    filters = sparsity(trace(sparsify(net, Sparse(0.5, "filter")).model, X))
    assert filters["dead"]["groups"]["0"] == 4 and filters["dead"]["params"] > 0
    r = surgeon.shrink(sparsify(net, Sparse(0.5, "filter")).model, X, dead=True, measure=False)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (net, r.model))
    assert before - after == filters["dead"]["params"]
    weights = sparsity(trace(sparsify(net, Sparse(0.5)).model, X))
    assert weights["dead"]["channels"] == 0 and weights["share"] > 0.4
    assert weights["layers"]["0"]["zeros"] == 144
    assert any("none" in line for line in text.sparsity(weights))


def test_gradient_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()\n"
    )
    x, y = torch.randn(64, 6, generator=torch.manual_seed(1)), torch.arange(64) % 4
    np.savez("d.npz", x=x.numpy(), labels=y.numpy())
    asked = ["sparsify", "nets.py:net", "--input", "1,6", "--criterion", "gradient", "-o", "s.pth"]
    assert run([*asked, "-q"]) == 2  # without data
    assert run([*asked, "-q", "--data", "d.npz"]) == 0
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    for part in (
        0,
        32,
    ):  # as --data gives them: all examples, in batches of 32 of which each has a mean loss
        order = open_data("d.npz", torch.zeros(1, 6)).indices[part : part + 32]
        nn.functional.cross_entropy(net(x[order]), y[order]).backward()
    state = torch.load("s.pth")["state_dict"]
    for layer, name in ((net[0], "0.weight"), (net[2], "2.weight")):
        score = (layer.weight * layer.weight.grad).abs().flatten()  # type: ignore[operator, union-attr]
        gone = set(score.argsort()[: score.numel() // 2].tolist())
        assert gone == set((state[name].flatten() == 0).nonzero().flatten().tolist())
