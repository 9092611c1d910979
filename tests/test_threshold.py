"""A threshold on normalised scores in a ratio's place: what is below goes, whatever that makes of the ratio."""

import pytest
import torch
from torch import nn

import surgeon
from surgeon.errors import BadInput, OutOfReach

torch.set_num_threads(1)
X = torch.randn(64, 4)


def net() -> nn.Sequential:
    """Hidden units whose weights are of the given sizes: 8 of the first layer, 6 of the second."""
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    sizes = ([1.0, 2, 3, 4, 5, 6, 7, 10], [30.0, 31, 32, 33, 34, 100])
    with torch.no_grad():
        for layer, taker, rows in zip((made[0], made[2]), (made[2], made[4]), sizes, strict=True):
            taker.weight.fill_(0.0)
            layer.weight.zero_()
            layer.weight[:, 0] = torch.tensor(rows)
        made[2].weight[:, 0] = torch.tensor(
            sizes[1]
        )  # the first layer's units are told apart by their own rows
    return made.eval()


def kept(done: surgeon.Result) -> list[int]:
    return [g.kept for g in done.plan.groups]


def shrink(**options) -> surgeon.Result:
    return surgeon.shrink(net(), X[:2], measure=False, by="filter", **options)


def test_what_is_below_a_share_of_the_largest_goes() -> None:
    assert kept(shrink(threshold=0.45)) == [4, 1]  # 5, 6, 7, 10 of 10; 100 of 100
    assert kept(shrink(threshold=0.32)) == [5, 4]  # 4 too; 32, 33, 34 too
    done = shrink(threshold=0.45, round_to=4)
    assert done.model[0].out_features == 4 and done.plan.request["threshold"] == 0.45


def test_the_score_is_as_normalise_says_and_a_ratio_of_its_own_holds() -> None:
    assert kept(shrink(threshold=31.5, normalise="none", ignore=["0"])) == [4]
    assert kept(shrink(threshold=0.45, ratio_for={"0": 0.25})) == [6, 1]


def test_one_stays_and_where_nothing_is_below_it_is_said() -> None:
    assert kept(shrink(threshold=5.0)) == [1, 1]
    with pytest.raises(OutOfReach, match=r"no score is below 0.01, the lowest is 0.1"):
        shrink(threshold=0.01)


def test_with_data_the_scores_still_say_what_goes_and_the_rest_is_fitted() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    without, given = (
        surgeon.shrink(plain, X[:2], threshold=0.8, measure=False, **more)
        for more in ({}, {"data": [X]})
    )
    assert given.plan.keep == without.plan.keep
    assert given.recovery is not None and given.recovery.fitted < given.recovery.cut
    with pytest.raises(BadInput, match="would choose it anew"):
        shrink(threshold=0.8, data=[X], recover=("select",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.1, "ratio": 0.5}, "contradict"),
        ({"threshold": 0.1, "max_params": "0.5x"}, "contradict"),
        ({"threshold": "much"}, "is not a number"),
        ({"threshold": float("nan")}, "is not a number"),
        ({"threshold": 0.1, "dead": True}, "nothing else"),
        ({"threshold": 0.1, "steps": 3}, "no steps to it"),
    ],
)
def test_refusals(options: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        shrink(**options)
