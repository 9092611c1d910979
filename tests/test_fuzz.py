"""Random networks: each is proven by the oracle and by a check without rules, or refused by name."""

import pytest
from fuzz import BLOCKS, Ask, Recipe, Step, asks, build, judge, pruned, recipes
from fuzz.judge import Differs, _compare, _zeroed
from fuzz.recipe import Form, Illegal
from hypothesis import HealthCheck, given, settings

import surgeon

DRAWS = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@given(recipes(), asks())
@DRAWS
def test_every_network_is_proven_or_refused_by_name(recipe: Recipe, ask: Ask):
    verdict = judge(recipe, ask)
    assert verdict.kind != "wrong", f"{verdict.detail}\n{recipe}\n{ask}"


IMAGE = Form("map", (3, 4, 6))
PLAIN = Recipe(
    (IMAGE,),
    (
        Step("conv", (0,), (3, 1, "zeros", True, 12)),
        Step("twice", (1,), (1,)),
        Step("activation", (2,), ("GELU(approximate='none')",)),
        Step("head", (3,), (3,)),
    ),
)


def test_a_recipe_is_its_own_repro():
    assert eval(repr(PLAIN)) == PLAIN
    first, second = build(PLAIN)[0], build(PLAIN)[0]
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_recipe_that_fits_no_network_is_told():
    wrong = Recipe((IMAGE,), (Step("conv", (0,), (5, 1, "zeros", True, 12)),))
    with pytest.raises(Illegal, match="is none of"):
        build(wrong)
    with pytest.raises(Illegal, match="reads what is not there"):
        build(Recipe((IMAGE,), (Step("linear", (0,), (4, True)),)))


def test_the_second_check_sees_what_a_wrong_cut_computes():
    """The check without rules: right for the plan, wrong for the same cut with two channels exchanged."""
    model, inputs = build(PLAIN)
    result = surgeon.shrink(model, inputs, 0.5, measure=False)
    wide = tuple(t.double() for t in inputs)
    zeroed, slim = _zeroed(model, result.plan), result.model.double()
    _compare(zeroed(*wide), slim(*wide), "zeroed")
    head = slim.layers[-1].weight.data
    head.copy_(head.flip(1))
    with pytest.raises(Differs):
        _compare(zeroed(*wide), slim(*wide), "zeroed")


def test_pruning_leaves_the_step_that_fails():
    assert PLAIN.plain
    least = pruned(PLAIN, lambda r: any(s.kind == "twice" for s in r.steps))
    assert [s.kind for s in least.steps] == ["twice"]


def test_every_block_can_be_drawn():
    takes = {kind for b in BLOCKS.values() for kind in b.takes}
    assert takes == {"any", "map", "tokens", "vector", "words"} and len(BLOCKS) > 90
