"""A masked network computes what the cut one will, and is itself again afterwards."""

import copy

import pytest
import torch
from nets import NETS, tensors
from test_tune import net
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import surgeon
from surgeon.errors import BadInput

QUICK = {"check": False, "measure": False}


@pytest.mark.parametrize(
    "name",
    [
        "residual_adds", "fused_qkv", "module_attention", "grouped_query", "norm_mlp_residual", "group_norm",
        "channel_softmax", "max_over_channels", "squeeze_excite", "instance_norm", "lstm", "zero_padded_shortcut",
        "write_through_views", "dict_output", "standardised_weights", "conv_chain", "best_tokens",
    ],
)  # fmt: skip
def test_masked_is_as_cut(name):
    model, inputs = NETS[name].build(), NETS[name].inputs()
    before = [t.clone() for t in tensors(model(*inputs))]
    state = copy.deepcopy(model.state_dict())
    r = surgeon.shrink(model, inputs, 0.5, **QUICK)
    want = tensors(r.model(*inputs))
    handle = surgeon.mask(model, r.plan)
    for _ in range(2):  # a forward leaves nothing behind
        for got, cut in zip(tensors(model(*inputs)), want, strict=True):
            torch.testing.assert_close(got, cut.detach(), rtol=1e-4, atol=1e-5)
    assert any(
        not torch.allclose(a, b) for a, b in zip(tensors(model(*inputs)), before, strict=True)
    )
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(tensors(model(*inputs)), before, strict=True))
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert "forward" not in vars(model)


def test_a_with_ends_the_mask_whatever_happens():
    model, x = net(), torch.rand(2, 1, 8, 8)
    r = surgeon.shrink(model, x, 0.5, **QUICK)
    with pytest.raises(ZeroDivisionError), surgeon.mask(model, r.plan):
        with pytest.raises(BadInput, match="masked already"):
            surgeon.mask(model, r.plan)
        torch.testing.assert_close(model(x), r.model(x).detach())
        _ = 1 / 0
    with torch.no_grad():
        assert not torch.allclose(model(x), r.model(x))


def test_a_forward_of_the_users_own_comes_back():
    model, x = net(), torch.rand(2, 1, 8, 8)
    r = surgeon.shrink(model, x, 0.5, **QUICK)
    own = model.forward
    model.forward = own
    handle = surgeon.mask(nn.DataParallel(model), r.plan)
    torch.testing.assert_close(model(x), r.model(x).detach())
    handle.remove()
    handle.remove()
    assert vars(model)["forward"] is own


def test_dead_channels_change_nothing():
    model, x = net(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        model.conv1.weight[2] = model.conv1.bias[2] = 0
        model.bn1.bias[2] = model.bn1.running_mean[2] = 0
        want = model(x)
    r = surgeon.shrink(model, x, dead=True, **QUICK)
    with surgeon.mask(model, r.plan):
        torch.testing.assert_close(model(x), want)


def test_computed_weights_and_programs():
    case = NETS["zero_padded_shortcut"]
    r = surgeon.shrink(case.build(), case.inputs(), 0.25, **QUICK)
    again = surgeon.shrink(r.model, r.inputs, 0.25, **QUICK)
    with surgeon.mask(r.model, again.plan):
        torch.testing.assert_close(r.model(*case.inputs()), again.model(*case.inputs()).detach())
    model = nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(2, 6)
    r = surgeon.shrink(model, x, 0.5, **QUICK)
    with surgeon.mask(model, r.plan):
        torch.testing.assert_close(model(x), r.model(x).detach())


def test_another_networks_plan_is_refused():
    r = surgeon.shrink(net(8), torch.zeros(2, 1, 8, 8), 0.5, **QUICK)
    other = net(4)
    with pytest.raises(BadInput, match="another model"):
        surgeon.mask(other, r.plan)
    assert "forward" not in vars(other)
