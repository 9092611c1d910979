"""A user's own loop: penalties are what they say, cuts are proven, and the optimizer goes on."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, tensors
from test_tune import X, digits, net, right, same
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam
from torch.optim.lr_scheduler import StepLR

import surgeon
from surgeon import BadInput, OutOfReach, Pruner
from surgeon.loop import PENALTIES, Pressed, penalty
from surgeon.slices import sliced
from surgeon.structure import check_structure

torch.set_num_threads(1)
PIXELS, LABELS = digits()


def epoch(pruner: Pruner, optimizer: torch.optim.Optimizer, press: bool = False) -> None:
    pruner.model.train()
    for first in range(0, 320, 40):
        part = slice(first, first + 40)
        loss = F.cross_entropy(pruner.model(PIXELS[part]), LABELS[part])
        optimizer.zero_grad()
        loss.backward()
        if press:
            pruner.regularize()
        optimizer.step()


# penalties


def per_channel(model: nn.Module, by: str) -> Tensor:
    """Of conv2 of `net`: squares, or counts, over conv2, bn2 and the columns of fc."""
    rows = [model.conv2.weight.flatten(1), model.fc.weight.T]
    rows += [t[:, None] for t in (model.conv2.bias, model.bn2.weight, model.bn2.bias)]
    every = torch.cat(rows, 1)
    return every.square().sum(1) if by == "squares" else torch.full((16,), float(every.shape[1]))


DIRECT = {
    "group-lasso": lambda m: (per_channel(m, "counts").sqrt() * per_channel(m, "squares").sqrt()).sum(),
    "slimming": lambda m: m.bn2.weight.abs().sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECT)
def test_penalties_against_a_direct_computation(name):
    model = net()
    pruner = Pruner(model, X, 0.5, penalty=name, strength=0.3, ignore=["conv1"])
    F.cross_entropy(model(PIXELS[:40]), LABELS[:40]).backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    said = pruner.regularize()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    want = 0.3 * DIRECT[name](twin)
    want.backward()
    torch.testing.assert_close(said, want.detach())
    assert any(p.grad is not None for p in twin.parameters())
    for (n, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        added = torch.zeros_like(p) if q.grad is None else q.grad
        torch.testing.assert_close(p.grad, before[n] + added, msg=n)


def test_the_growing_penalty_presses_what_goes_next_and_that_goes():
    model = net()
    pruner = Pruner(model, X, 0.5, penalty="growing", strength=0.1, ignore=["conv1"])
    by_norm = surgeon.propose(model, X, 0.5, ignore=["conv1"]).plan
    gone = torch.ones(16, dtype=torch.bool)
    gone[list(by_norm.keep["conv2.weight"][0])] = False
    for calls in (1, 2, 3):
        model.zero_grad()
        pruner.regularize()
        want = torch.where(gone[:, None, None, None], 0.1 * calls * model.conv2.weight.detach(), 0)
        torch.testing.assert_close(model.conv2.weight.grad, want)
        assert model.conv1.weight.grad is None or not model.conv1.weight.grad[:, 0].any()
    with torch.no_grad():  # now others would be chosen
        model.conv2.weight[gone] *= 100
    pruner.step()
    assert pruner.result.plan.keep["conv2.weight"] == by_norm.keep["conv2.weight"]


def test_a_penalty_of_ones_own():
    seen: list[Pressed] = []

    def mine(pressed: Pressed) -> Tensor:
        seen.append(pressed)
        return pressed.squares.sum() / 2

    model = net()
    pruner = Pruner(model, X, 0.5, penalty=mine, strength=2.0)
    pruner.regularize()
    torch.testing.assert_close(model.fc.weight.grad, 2.0 * model.fc.weight.detach())
    assert [len(p.squares) for p in seen] == [8, 16]
    assert seen[0].scales is not None
    assert not seen[0].chosen.any()
    with pytest.raises(BadInput, match="did you mean slimming"):
        Pruner(model, X, 0.5, penalty="slim")
    with pytest.raises(BadInput, match="already"):
        penalty("slimming")(mine)
    assert all(k.paper for k in PENALTIES.values())


def test_pressed_channels_become_small():
    model = net(16)
    free = Pruner(copy.deepcopy(model), X, 0.5)
    pressed = Pruner(model, X, 0.5, strength=2e-2)
    for pruner, press in ((free, False), (pressed, True)):
        optimizer = SGD(pruner.model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            epoch(pruner, optimizer, press)
    least = [
        p.model.conv2.weight.flatten(1).norm(dim=1).sort()[0][:8].mean() for p in (free, pressed)
    ]
    assert least[1] < 0.5 * least[0]


# cuts


def test_the_optimizer_and_its_schedule_go_on():
    model = net(16)
    optimizer, mine = Adam(model.parameters(), lr=0.02), nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [mine], "lr": 0.5})
    schedule = StepLR(optimizer, 1, 0.5)
    pruner = Pruner(model, X, 0.5, steps=2)
    for _ in range(2):
        epoch(pruner, optimizer)
        schedule.step()
        old = pruner.model
        had = {n: optimizer.state[p] for n, p in old.named_parameters()}
        weights = {n: p.detach().clone() for n, p in old.named_parameters()}
        new = pruner.step(optimizer)
        assert new is pruner.model
        assert new.training
        plan = pruner._step_plan
        for n, p in new.named_parameters():
            kept = plan.keep.get(n, {})
            assert torch.equal(p, sliced(weights[n], kept))
            for what in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(optimizer.state[p][what], sliced(had[n][what], kept))
            assert optimizer.state[p]["step"] == had[n]["step"]
        assert optimizer.param_groups[1]["params"] == [mine]
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.005, 0.125])
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in pruner.model.parameters()
    }
    epoch(pruner, optimizer)


def test_a_whole_loop(tmp_path):
    model = net(16)
    untouched = [p.shape for p in model.parameters()]
    pruner = Pruner(model, X, 0.5, steps=3, schedule="polynomial", strength=1e-3, round_to=1)
    optimizer = SGD(pruner.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        epoch(pruner, optimizer, press=True)
        pruner.step(optimizer)
    cut = right(pruner.model.eval())
    for _ in range(3):
        epoch(pruner, optimizer, press=True)
    assert pruner.done
    assert pruner.step(optimizer) is pruner.model
    assert pruner.regularize() == 0
    assert right(pruner.model.eval()) > max(cut, 0.6)
    assert [p.shape for p in model.parameters()] == untouched
    assert all(c.error is not None and c.error < 1e-9 for c in pruner.history)
    r = pruner.result
    assert {g.name: g.kept for g in r.plan.groups} == {"conv1": 8, "conv2": 16}
    assert check_structure(model, r.model, r.plan, r.inputs).error < 1e-9
    surgeon.save(r, tmp_path / "slim.pth")
    loaded = surgeon.load(tmp_path / "slim.pth", model=net(16))
    assert same(loaded, pruner.model)


@pytest.mark.parametrize("name", ["fused_qkv", "module_attention", "zero_padded_shortcut", "dense_concat", "lstm"])  # fmt: skip
def test_hard_nets_are_cut_while_they_are_trained(name):
    case = NETS[name]
    model, inputs = case.build(), case.inputs()
    pruner = Pruner(model, inputs, 0.5, steps=3)
    optimizer = Adam(pruner.model.parameters(), lr=1e-3)
    for _ in range(3):
        loss = sum(t.square().mean() for t in tensors(pruner.model.train()(*inputs)))
        optimizer.zero_grad()
        loss.backward()
        assert pruner.regularize() > 0
        optimizer.step()
        pruner.step(optimizer)
    assert all(c.error is not None and c.error <= 1e-5 for c in pruner.history)
    r = pruner.result
    assert check_structure(model, r.model, r.plan, r.inputs).error <= 1e-5
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in pruner.model.parameters()
    }


def test_an_average_of_the_weights_follows():
    model = net(16)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    pruner = Pruner(model, X, 0.5)
    with pytest.raises(BadInput, match="no cut yet"):
        pruner.follow(average.module)
    optimizer = SGD(model.parameters(), lr=0.1)
    epoch(pruner, optimizer)
    average.update_parameters(model)
    before = copy.deepcopy(average.module.state_dict())
    pruner.step(optimizer)
    average.module = pruner.follow(average.module)
    for n, t in average.module.state_dict().items():
        assert torch.equal(t, sliced(before[n], pruner.result.plan.keep.get(n, {})))
    average.update_parameters(pruner.model)
    with pytest.raises(BadInput, match="no copy of the network before the last cut"):
        pruner.follow(net(4))


def test_modes_and_frozen_weights_stay():
    model = net(16).train()
    model.bn1.eval()
    model.fc.weight.requires_grad_(False)
    pruner = Pruner(model, X, 0.5, steps=2)
    pruner.step()
    pruner.model.conv1.weight.requires_grad_(False)
    pruner.step()
    assert pruner.model.training
    assert not pruner.model.bn1.training
    assert [n for n, p in pruner.model.named_parameters() if not p.requires_grad] == [
        "conv1.weight",
        "fc.weight",
    ]


def test_a_saved_pruner_goes_on():
    def begun() -> tuple[Pruner, torch.optim.Optimizer]:
        torch.manual_seed(1)
        pruner = Pruner(net(16), X, 0.6, steps=3)
        optimizer = Adam(pruner.model.parameters(), lr=0.01)
        for _ in range(2):
            epoch(pruner, optimizer, press=True)
            pruner.step(optimizer)
        return pruner, optimizer

    def ended(pruner: Pruner, optimizer: torch.optim.Optimizer) -> nn.Module:
        epoch(pruner, optimizer, press=True)
        pruner.step(optimizer)
        epoch(pruner, optimizer)
        return pruner.model

    pruner, optimizer = begun()
    saved = copy.deepcopy((pruner.state_dict(), optimizer.state_dict()))
    whole = ended(pruner, optimizer)
    again = Pruner(net(16), X, 0.6, steps=3)
    again.load_state_dict(saved[0])
    carried = Adam(again.model.parameters(), lr=0.01)
    carried.load_state_dict(saved[1])
    assert same(ended(again, carried), whole)
    assert again.history == pruner.history


def test_a_refusal_leaves_everything_as_it_was():
    model = net(16)
    rows = Adafactor(model.parameters())
    pruner = Pruner(model, X, 0.5)
    epoch(pruner, rows)
    with pytest.raises(BadInput, match="row_var"):
        pruner.step(rows)
    assert pruner.model is model
    assert not pruner.done
    with pytest.raises(BadInput, match="nothing was cut yet"):
        _ = pruner.result
    pruner.step()
    assert pruner.done


def test_what_cannot_be_meant():
    with pytest.raises(BadInput, match="no schedule"):
        Pruner(net(), X, 0.5, schedule="cubic")
    with pytest.raises(BadInput, match="without training"):
        Pruner(net(), X, dead=True)
    with pytest.raises(BadInput, match="nothing was asked"):
        Pruner(net(), X)
    with pytest.raises(OutOfReach):
        Pruner(net(), X, 0.001).step()
    assert math.isclose(
        float(Pruner(net(), X, 0.5).regularize()), float(Pruner(net(), X, 0.9).regularize())
    )
