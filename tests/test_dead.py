"""--dead: what goes changes no output; what emits a constant that no bias can take stays, with the reason."""

import sys
from pathlib import Path

import pytest
import torch
from nets import NETS, draw
from nets.sparse import Residual, ValidChain, ZeroedChain, build, chain, mlp
from torch import nn
from torch.nn.utils import prune

import surgeon
from surgeon.errors import BadInput, CheckFailed, OutOfReach
from surgeon.plan import Plan

torch.set_num_threads(1)

MODELS = Path(__file__).parents[1] / "models"
X = draw(2, 3, 8, 8)


def dead(model: nn.Module, x: torch.Tensor) -> surgeon.Result:
    """What is dead goes; the outputs are compared here, on other inputs, too."""
    r = surgeon.shrink(model, x, dead=True, measure=False)
    z = draw(5, *x.shape[1:], seed=3)
    torch.testing.assert_close(r.model(z), model(z), rtol=1e-4, atol=1e-5)
    assert r.check is not None and r.check.error < 1e-12
    return r


def gone(r: surgeon.Result) -> dict[str, list[int]]:
    assert r.dead is not None
    return {n: list(c) for n, c in r.dead.channels.items()}


def test_constants_of_linear_layers_are_carried() -> None:
    r = dead(mlp(), draw(2, 4))
    assert gone(r) == {"0": [1, 3], "2": [2, 5]}
    assert set(r.plan.carries or {}) == {"2.bias", "4.bias"}
    assert r.model[2].weight.shape == (4, 6)  # type: ignore[index]


def test_without_padding_a_constant_is_carried_past_a_conv_without_bias() -> None:
    r = dead(chain(ValidChain), X)
    assert gone(r) == {"stem": [0, 1, 2], "conv": [4]}
    assert set(r.plan.carries or {}) == {"last.bias", "head.bias"}


def test_at_a_padded_border_a_constant_stays_and_zero_goes() -> None:
    r = dead(chain(ZeroedChain), X)
    assert gone(r) == {"stem": [0, 1], "conv": [4]}
    assert r.dead is not None
    ((why, channels),) = r.dead.kept["stem"].items()
    assert channels == (2,) and "zero padding of conv" in why
    assert any("zero padding" in n for n in r.notes)


def test_a_norm_without_a_shift_takes_the_constant_into_its_mean() -> None:
    model = chain(ValidChain)
    model.last = nn.BatchNorm2d(6, affine=False).eval()
    model.last.running_var += 1
    assert "last.running_mean" in (dead(model, X).plan.carries or {})


def test_a_residual_channel_is_dead_only_where_all_its_makers_are() -> None:
    model = build(Residual)
    with torch.no_grad():
        model.stem.weight[[1, 2]] = 0
        model.conv.weight[[2, 3]] = 0
        model.conv.weight[:, 2] = 0  # else the stem's constant meets padding
    r = dead(model, X)
    assert gone(r) == {"stem": [2]}


def test_a_channel_that_nothing_reads_goes_and_what_only_it_read() -> None:
    model = chain(ValidChain)
    with torch.no_grad():
        model.norm.weight[:3] = 1
        model.conv.weight[4] = 1
        model.head.weight[:, 2] = 0  # conv 2 is not read
        model.conv.weight[[0, 1, 3, 4, 5], 7] = 0  # stem 7 is read by conv 2 alone
    r = dead(model, X)
    assert gone(r) == {"stem": [7], "conv": [2]}
    assert not r.plan.carries


def test_masks_of_torch_prune() -> None:
    pytest.importorskip("sklearn")
    sys.path.insert(0, str(MODELS.parent))
    from models.digits import digits_resnet

    model = digits_resnet().eval()
    model.load_state_dict(torch.load(MODELS / "digits_resnet.pth")["state_dict"])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", 0.4, n=2, dim=0)
    r = dead(model, draw(2, 1, 8, 8))
    assert r.way == "module" and r.plan.removed >= 40


def test_one_channel_of_a_group_that_is_all_dead_stays() -> None:
    model = chain(ValidChain)
    with torch.no_grad():
        model.norm.weight.zero_()
    r = dead(model, X)
    assert r.model.stem.weight.shape[0] == 1  # type: ignore[union-attr]


def test_always_off_on_some_inputs_is_not_dead() -> None:
    model = chain(ValidChain)
    with torch.no_grad():
        model.norm.weight[:3] = 1e-3
        model.norm.bias[:3] = -50  # off on any usual input, and yet another could wake it
        model.conv.weight[4] = 1
    with pytest.raises(OutOfReach, match="nothing is dead"):
        surgeon.shrink(model, X, dead=True, measure=False)


def test_the_oracle_sees_a_wrong_constant() -> None:
    model = mlp()
    r = dead(model, draw(2, 4))
    with torch.no_grad():
        r.model[2].bias[0] += 1e-4  # type: ignore[index]
    with pytest.raises(CheckFailed, match=r"2\.bias"):
        surgeon.check(model, r.model, r.plan, draw(2, 4))


def test_the_oracle_sees_a_channel_that_was_not_dead() -> None:
    model = mlp()
    r = dead(model, draw(2, 4))
    with torch.no_grad():
        model[0].weight[1] = 1
    with pytest.raises(CheckFailed):
        surgeon.check(model, r.model, r.plan, draw(2, 4))


def test_a_plan_carries_too() -> None:
    model = mlp()
    r = dead(model, draw(2, 4))
    plan = Plan.from_json(r.plan.to_json())
    assert plan.carries == r.plan.carries
    z = draw(4, 4, seed=5)
    torch.testing.assert_close(surgeon.apply(plan, model, draw(2, 4))(z), model(z))


def test_nothing_else_is_asked_beside() -> None:
    with pytest.raises(BadInput, match="--dead"):
        surgeon.shrink(mlp(), draw(2, 4), 0.5, dead=True)


NAMES = ["zero_padded_shortcut", "windows_with_local_bias", "write_through_views", "channel_shuffle",
         "class_token", "complex_rotary", "pooled_twice"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_zeros_anywhere_change_no_output(name: str) -> None:
    case = NETS[name]
    model, inputs = case.build(), case.inputs()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in model.parameters():
            if len(t) > 2 or t.dim() > 1:
                t[torch.rand(len(t), generator=generator) < 0.3] = 0
    r = surgeon.shrink(model, inputs, dead=True, measure=False)
    assert r.plan.removed and r.check is not None and r.check.error < 1e-9
