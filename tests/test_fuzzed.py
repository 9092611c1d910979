"""One network for each fault that the fuzzer found, as small as it came: each failed before its repair."""

import pytest
from fuzz import Ask, Recipe, Step, judge
from fuzz.recipe import Form

MAP1 = (Form("map", (4, 8)),)
TOKENS = (Form("tokens", (6, 5)),)

FOUND = {
    "the states that an lstm's program makes by itself": (
        Recipe(
            TOKENS,
            (
                Step("linear", (0,), (12, True)),
                Step("recurrent", (1,), ("LSTM", "sequence first", 1, True, 1)),
                Step("gather", (1,), (16, "choose", "buffer")),
            ),
        ),
        Ask(criterion="random", round_to=4),
    ),
    "tensor_split at other places than equal ones": (
        Recipe(
            MAP1,
            (
                Step("conv", (0,), (3, 1, "circular", True, 20)),
                Step("halves", (1,), (2, "tensor_split", 1)),
                Step("head", (2,), (2,)),
            ),
        ),
        Ask(ratio=0.15),
    ),
    "a gather where a strided slice was lays the tensor out otherwise": (
        Recipe(
            (Form("words", (6,)),),
            (
                Step("embedding", (0,), (9, None, 0)),
                Step("slice_", (1,), (0, 2, "end", 4)),
                Step("head", (2,), (2,)),
            ),
        ),
        Ask("max_flops"),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "ask"), FOUND.values(), ids=FOUND.keys())
def test_a_network_that_once_went_wrong(recipe: Recipe, ask: Ask):
    verdict = judge(recipe, ask, deep=True)
    assert verdict.kind in ("module", "program"), verdict.detail
