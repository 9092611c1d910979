"""Two plans as one: the same network, to the bit, as one cut after the other."""

import pytest
import torch
from nets import NETS
from torch import nn

import surgeon
from surgeon.compose import compose, since
from surgeon.errors import BadInput
from surgeon.plan import Cuts, Plan
from surgeon.trace.tensors import named_state

QUICK = {"check": False, "measure": False}


def both(name: str, **options):
    """Two cuts of a net, one after the other: the net, its inputs, the results."""
    model, inputs = NETS[name].build(), NETS[name].inputs()
    first = surgeon.shrink(model, inputs, 0.25, **QUICK, **options)
    second = surgeon.shrink(first.model, first.inputs, 0.34, **QUICK, **options)
    return model, inputs, first, second


def states(a: nn.Module, b: nn.Module):
    """The tensors that both hold; a program's constants are its own."""
    one, other = named_state(a), named_state(b)
    own = [n for n in one if not n.startswith("_constants.")]
    assert own == [n for n in other if not n.startswith("_constants.")]
    return [(one[n], other[n]) for n in own]


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("residual_adds", "module module"),
        ("dense_concat", "module module"),
        ("depthwise_separable", "module module"),
        ("lstm", "module module"),
        ("tied_embedding", "module module"),
        ("channel_shuffle", "module module"),
        ("zero_padded_shortcut", "program program"),
        ("literal_view", "program program"),
        ("read_one_channel", "module program"),
    ],
)
def test_one_plan_for_two_cuts(name, ways):
    model, inputs, first, second = both(name)
    assert f"{first.way} {second.way}" == ways
    plan = Plan.from_json(compose(first.plan, second.plan).to_json())
    slim = surgeon.apply(plan, model, inputs)
    again = surgeon.apply(second.plan, surgeon.apply(first.plan, model, inputs), first.inputs)
    assert all(torch.equal(a, b) for a, b in states(slim, second.model))
    assert all(torch.equal(a, b) for a, b in states(slim, again))
    with torch.no_grad():
        torch.testing.assert_close(slim(*inputs), second.model(*inputs))
    surgeon.check(model, second.model, plan, second.inputs)
    sizes = {g.name: (g.size, g.kept) for g in plan.groups}
    assert {n: s for n, (s, _) in sizes.items()} == {g.name: g.size for g in first.plan.groups}
    later = {g.name: g.kept for g in second.plan.groups}
    assert all(kept == later.get(n, kept) for n, (_, kept) in sizes.items())


@pytest.mark.parametrize("name", ["fused_qkv", "separate_qkv", "relative_bias"])
def test_heads(name):
    model, inputs, first, second = both(name, cut="heads,mlp")
    plan = compose(first.plan, second.plan)
    assert any(g.kind == "heads" and g.kept < g.size for g in plan.groups)
    slim = surgeon.apply(plan, model, inputs)
    assert all(torch.equal(a, b) for a, b in states(slim, second.model))
    surgeon.check(model, second.model, plan, second.inputs)


@pytest.mark.parametrize("name", ["fused_qkv", "grouped_query", "module_attention"])
def test_factors_that_rows_took_up_twice(name):
    model, _, first, second = both(name, cut="head_dim,width,mlp")
    plan = compose(first.plan, second.plan)
    assert first.plan.folds
    assert plan.folds
    # each cut rounds its own factor
    surgeon.check(model, second.model, plan, second.inputs)
    step = since(plan, first.plan)
    assert {n: dict(d) for n, d in step.keep.items()} == {
        n: dict(d) for n, d in second.plan.keep.items() if n in named_state(model)
    }
    for name, rows in second.plan.folds.items():
        for found, want in zip(step.folds[name], rows, strict=True):
            assert found == pytest.approx(want)


def test_constants_of_dead_channels_are_added():
    state = {"b": [4], "w": [4, 2]}
    model, after = {"state": state}, {"state": {"b": [3], "w": [3, 2]}}
    keep = {"b": {0: (0, 2, 3)}, "w": {0: (0, 2, 3)}}
    first = Plan(keep, model, carries={"b": (1.0, 2.0, 3.0), "w": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)})
    second = Plan({"b": {0: (1, 2)}, "w": {0: (1, 2), 1: (1,)}}, after, carries={"b": (10.0, 20.0)})
    found = compose(first, second)
    assert found.keep == {"b": {0: (2, 3)}, "w": {0: (2, 3), 1: (1,)}}
    assert found.carries == {"b": (12.0, 23.0), "w": (4.0, 6.0)}
    with pytest.raises(BadInput, match="one of the plans removes what is dead"):
        compose(first, Plan({}, after))


def test_plans_that_do_not_follow_each_other_are_refused():
    first = Plan({"w": {0: (0, 1)}}, {"state": {"w": [4]}})
    with pytest.raises(BadInput, match=r"there w is \[3\], the first leaves \[2\]"):
        compose(first, Plan({"w": {0: (0, 2)}}, {"state": {"w": [3]}}))
    with pytest.raises(BadInput, match="keeps index 2 of w"):
        compose(first, Plan({"w": {0: (0, 2)}}))
    with pytest.raises(BadInput, match="the later plan keeps more of w"):
        since(Plan({"w": {0: (0, 2)}}), first)


def test_what_a_plan_says_of_its_groups():
    first = Plan({}, groups=(Cuts("a", 8, 6, True), Cuts("b", 4, 3, True)))
    second = Plan({}, groups=(Cuts("a", 6, 2, False), Cuts("c", 5, 5, True)))
    assert compose(first, second).groups == (
        Cuts("a", 8, 2, False), Cuts("b", 4, 3, True), Cuts("c", 5, 5, True),
    )  # fmt: skip
