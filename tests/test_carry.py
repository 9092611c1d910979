"""After a cut the optimizer goes on: its next steps are those it would have made on the kept weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from nets import NETS
from test_tune import X, net
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import StepLR

import surgeon
from surgeon import BadInput
from surgeon.slices import sliced

MAKE: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}


def step(model: nn.Module, optimizer: Optimizer, grads: dict[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        weight.grad = grads[name].clone()
    optimizer.step()


def drawn(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.randn_like(p) for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", MAKE)
def test_the_next_steps_are_those_of_the_kept_weights(name):
    model = net()
    scales = [p for p in model.parameters() if p.dim() == 1]
    rest = [p for p in model.parameters() if p.dim() > 1]
    optimizer = MAKE[name]([{"params": rest}, {"params": scales, "lr": 0.02}])
    schedule = StepLR(optimizer, 2, 0.5)
    for _ in range(3):
        step(model, optimizer, drawn(model))
        schedule.step()
    r = surgeon.shrink(model, X, 0.5, check=False, measure=False)
    before = {n: p.clone() for n, p in model.named_parameters()}
    later = [drawn(model) for _ in range(3)]
    whole = MAKE[name]([{"params": rest}, {"params": scales, "lr": 0.02}])
    whole.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    surgeon.carry(optimizer, model, r.model, r.plan)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    for grads in later:
        small = {n: sliced(g, r.plan.keep.get(n, {})) for n, g in grads.items()}
        step(r.model, optimizer, small)
        step(model, whole, grads)
    for n, p in r.model.named_parameters():
        torch.testing.assert_close(
            p, sliced(dict(model.named_parameters())[n], r.plan.keep.get(n, {}))
        )
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.01])
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.005])


def test_others_weights_are_left_alone_and_a_refusal_changes_nothing():
    model, temperature = net(), nn.Parameter(torch.ones(3))
    r = surgeon.shrink(model, X, 0.5, check=False, measure=False)
    optimizer = Adam([*model.parameters(), temperature])
    surgeon.carry(optimizer, model, r.model, r.plan)
    assert optimizer.param_groups[0]["params"][-1] is temperature
    assert optimizer.param_groups[0]["params"][0] is r.model.conv1.weight
    rows = Adafactor(model.parameters())
    step(model, rows, drawn(model))
    before = [*rows.param_groups[0]["params"]]
    with pytest.raises(BadInput, match=r"row_var of conv1\.weight"):
        surgeon.carry(rows, model, r.model, r.plan)
    assert all(a is b for a, b in zip(before, rows.param_groups[0]["params"], strict=True))


@pytest.mark.parametrize("name", ["tied_embedding", "shared_weight", "bidirectional_gru"])
def test_every_weight_of_the_slim_network_is_trained_on(name):
    model, inputs = NETS[name].build(), NETS[name].inputs()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    step(model, optimizer, drawn(model))
    r = surgeon.shrink(model, inputs, 0.5, check=False, measure=False)
    surgeon.carry(optimizer, model, r.model, r.plan)
    held = optimizer.param_groups[0]["params"]
    assert {id(p) for p in held} == {id(p) for p in r.model.parameters()}
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in held)


@pytest.mark.parametrize("name", [*MAKE, "adagrad", "adadelta"])
def test_state_of_rows_that_took_up_a_factor(name):
    """Moments are those of the folded weights' own gradients: had they been folded before, the same would be remembered."""
    make = {**MAKE, "adagrad": Adagrad, "adadelta": Adadelta}[name]
    case = NETS["fused_qkv"]
    model, inputs = case.build(), case.inputs()
    r = surgeon.shrink(model, inputs, 0.5, cut="head_dim", check=False, measure=False)
    assert r.plan.folds
    small = dict(r.model.named_parameters())
    ours, theirs = make(list(model.parameters())), make(list(small.values()))
    torch.manual_seed(0)
    for _ in range(3):
        for n, p in model.named_parameters():
            p.grad = torch.randn_like(p)
            small[n].grad = sliced(p.grad, r.plan.keep.get(n, {})).clone()
            for first, last, factor in r.plan.folds.get(n, ()):
                small[n].grad[first:last] /= factor
        ours.step()
        theirs.step()
    surgeon.carry(ours, model, r.model, r.plan)
    for p in small.values():
        for what, want in theirs.state[p].items():
            if isinstance(want, Tensor) and what != "acc_delta":
                torch.testing.assert_close(ours.state[p][what], want, rtol=1e-4, atol=1e-6)


def test_state_that_scales_nobody_knows_how_is_refused():
    case = NETS["fused_qkv"]
    model, inputs = case.build(), case.inputs()
    r = surgeon.shrink(model, inputs, 0.5, cut="head_dim", check=False, measure=False)
    optimizer = SGD(model.parameters(), lr=0.1)
    name = next(iter(r.plan.folds))
    weight = dict(model.named_parameters())[name]
    optimizer.state[weight]["own"] = torch.zeros_like(weight)
    with pytest.raises(BadInput, match="how the optimizer's own scales is not known"):
        surgeon.carry(optimizer, model, r.model, r.plan)
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())
