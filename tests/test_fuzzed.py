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
    "a scale of one over the root of a width behind a transposed convolution": (
        Recipe(
            (Form("map", (4, 8)),),
            (
                Step("conv", (0,), (1, 1, "zeros", True, 12)),
                Step("down_and_up", (1,), (9, 4, "sum")),
                Step("branches", (2,), ("norm_by_hand", "by_width", "sum")),
                Step("head", (3,), (2,)),
            ),
            gives="list",
            batch=2,
            state="eval",
        ),
        Ask(
            "ignore",
            ratio=0.3,
            scope="isomorphic",
            criterion="random",
            by="filter",
            round_to=4,
            which=1,
            channel=4,
        ),
    ),
    "heads that a doubted module would have cut to one, and head_dim goes instead": (
        Recipe(
            (Form("words", (6,)),),
            (
                Step("embedding", (0,), (3, "embedding", None)),
                Step(
                    "transformer_block",
                    (1,),
                    (
                        2,
                        2,
                        2,
                        "softmax",
                        "causal",
                        "separate",
                        "rest",
                        True,
                        7,
                        10,
                        True,
                        "LayerNorm",
                    ),
                ),
            ),
            gives="dict",
            batch=3,
            state="eval",
        ),
        Ask("ratio", ratio=0.3, scope="local", criterion="l2", by="filter", which=1, channel=2),
    ),
    "heads cut to one in an einsum that torch makes of other ops then": (
        Recipe(
            (Form("vector", (10,)),),
            (
                Step("dense", (0,), (7, False)),
                Step("outer", (1, 1), ("product",)),
                Step("seen_as_tokens", (2,), (1, "view")),
                Step("overlapped", (2, 2), (17,)),
                Step(
                    "attention", (3,), (2, 2, 2, "einsum", "rotary", "separate", "rest", False, 2)
                ),
            ),
            gives="tuple",
            batch=2,
            state="eval",
        ),
        Ask(
            "only",
            ratio=0.3,
            scope="local",
            criterion="l1",
            by="shared-kernel",
            round_to=None,
            which=0,
            channel=2,
        ),
    ),
    "a factor folded into bfloat16 weights": (
        Recipe(
            (Form("tokens", (8, 12)),),
            (Step("linear", (0,), (5, False)), Step("masked_attention", (1,), (1, "padding"))),
            gives="tuple",
            batch=1,
            state="bfloat16",
        ),
        Ask(
            "ratio",
            ratio=0.5,
            scope="local",
            criterion="l2",
            by="shared-kernel",
            round_to=None,
            which=5,
            channel=0,
        ),
    ),
    "what is padded with other than zero, and summed": (
        Recipe(
            (Form("tokens", (6, 5)),),
            (
                Step("linear", (0,), (10, False)),
                Step("pad_channels", (1,), (0, 2, 1.5)),
                Step("branches", (2,), ("padding_mask", "linear", 2, True)),
                Step("token_mixing", (1,), (4,)),
                Step("head", (3,), (3,)),
            ),
            gives="list",
            batch=2,
            state="frozen",
        ),
        Ask(
            "ignore",
            ratio=0.5,
            scope="local",
            criterion="random",
            by="shared-kernel",
            round_to=None,
            which=5,
            channel=5,
        ),
    ),
    "a view of channels cut to one, which -1 stands for": (
        Recipe(
            (Form("map", (3, 6, 6)),),
            (
                Step("low_rank", (0,), (12, 2, True)),
                Step("permuted_factors", (1,), (1, 1, (0, 2, 1), False)),
                Step("head", (2,), (2,)),
            ),
            gives="tuple",
            batch=1,
            state="eval",
        ),
        Ask(
            "ratio",
            ratio=0.9,
            scope="local",
            criterion="l2",
            by="filter",
            round_to=None,
            which=5,
            channel=2,
        ),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "ask"), FOUND.values(), ids=FOUND.keys())
def test_a_network_that_once_went_wrong(recipe: Recipe, ask: Ask):
    # ONNX Runtime lacks operators in bfloat16
    verdict = judge(recipe, ask, deep=recipe.state != "bfloat16")
    assert verdict.kind in ("module", "program"), verdict.detail


# what the code itself makes takes no mask: where it is added up, it stays
STAYS = {
    "padded channels that a norm by hand mixes": (
        Recipe(
            (Form("vector", (10,)),),
            (
                Step("dense", (0,), (6, True)),
                Step("pad_channels", (1,), (3, 1, 0.0)),
                Step("branches", (2,), ("norm_by_hand", "expanded", "cat")),
                Step("glu", (3,), (-1,)),
                Step("glu", (4,), (1,)),
                Step("head", (5,), (2,)),
            ),
            gives="dict",
            batch=2,
            state="eval",
        ),
        Ask("ratio", ratio=0.3, scope="isomorphic", by="shared-kernel", round_to=4),
    ),
    "copies that are summed without a weight": (
        Recipe(
            (Form("tokens", (6, 5)),),
            (
                Step("linear", (0,), (6, True)),
                Step("repeat", (1,), (2, "tile")),
                Step("maxout", (2,), (6, False, "sum")),
                Step("similarity", (1, 1), ()),
                Step("head", (2,), (3,)),
            ),
            gives="tuple",
            batch=1,
            state="eval",
        ),
        Ask(
            "ratio",
            ratio=0.3,
            scope="local",
            criterion="l1",
            by="shared-kernel",
            round_to=8,
            which=4,
            channel=1,
        ),
    ),
    "copies in a mean, compared with it": (
        Recipe(
            (Form("vector", (10,)),),
            (
                Step("dense", (0,), (1, False)),
                Step("repeat", (1,), (3, "expand")),
                Step("strongest", (2,), ()),
                Step("head", (3,), (3,)),
            ),
            gives="dict",
            batch=2,
            state="eval",
        ),
        Ask(
            "ratio",
            ratio=0.5,
            scope="local",
            criterion="random",
            by="shared-kernel",
            round_to=None,
            which=2,
            channel=0,
        ),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("recipe", "ask"), STAYS.values(), ids=STAYS.keys())
def test_copies_that_the_code_adds_up_stay(recipe: Recipe, ask: Ask):
    verdict = judge(recipe, ask, deep=True)
    assert verdict.kind == "refused"
    assert "constants or copies that the code makes, where aten." in verdict.detail
