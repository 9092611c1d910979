"""The nets hold what they promise: they run, they say something, and no weight of theirs is idle."""

import pytest
import torch
from nets import NETS, Case, build, net, tensors
from torch import nn

each = pytest.mark.parametrize("case", NETS.values(), ids=NETS.keys())


@each
def test_outputs_are_finite_and_follow_the_input(case: Case):
    outputs = tensors(case.build()(*case.inputs()))
    assert outputs
    for output in outputs:
        assert output.isfinite().all()
        assert (output[0] - output[1]).abs().max() > 0.02 * output.abs().max() > 0.002


@each
def test_every_parameter_matters(case: Case):
    model = case.build().requires_grad_()
    sum(output.square().sum() for output in tensors(model(*case.inputs()))).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@each
def test_cuts_name_modules(case: Case):
    modules = dict(case.build().named_modules())
    assert not [path for path in case.cuts if path not in modules]
    assert len(set(case.cuts)) == len(case.cuts)


@each
def test_builds_are_equal_and_in_eval_mode(case: Case):
    first, second = case.build(), case.build()
    assert not any(module.training for module in first.modules())
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_no_default_is_left():
    norm = build(lambda: nn.BatchNorm2d(4))
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor.std() > 0
    assert (norm.running_var > 0).all()


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two nets are named glu"):
        net(inputs=NETS["glu"].inputs)(type("Glu", (nn.Module,), {}))
