"""Windows of one element along the channels: pools and nearest neighbours over tokens as pictures of one channel (Funnel)."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgeon

X = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))


class Tokens(nn.Module):
    """f32[N, 12, 5] -> 8 channels -> [N, 1, 12, 8] -> `function` -> head."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.embed(x)[:, None])[:, 0])


def largest_at(x: Tensor) -> Tensor:
    """Where the largest were, as numbers."""
    largest, at = F.max_pool2d(x, (2, 1), return_indices=True)
    return largest + at


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: F.avg_pool2d(x, (2, 1), ceil_mode=True),
    "max": lambda x: F.max_pool2d(x, (3, 1), (2, 1), padding=(1, 0)),
    "max, places unread": lambda x: F.max_pool2d(x, (2, 1), return_indices=True)[0],
    "3d": lambda x: F.avg_pool3d(x[:, None], (1, 2, 1))[:, 0],
    "nearest": lambda x: F.interpolate(x, scale_factor=(2.0, 1.0)),
    "exact": lambda x: F.interpolate(x, size=(24, x.shape[3]), mode="nearest-exact"),
}
TORN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "windows": (lambda x: F.avg_pool2d(x, (2, 3), (2, 1), (0, 1)), "aten.avg_pool2d.default reads it"),
    "steps": (lambda x: F.max_pool2d(x, (2, 1), 2).repeat(1, 1, 1, 2), "max_pool2d_with_indices.default reads it"),
    "places": (largest_at, "max_pool2d_with_indices.default tells positions along it"),
    "larger": (lambda x: F.interpolate(x, scale_factor=2.0)[..., :8], "upsample_nearest2d.default reads it"),
    "linear": (lambda x: F.interpolate(x, size=(24, 8), mode="bilinear"), "upsample_bilinear2d.default reads it"),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_channels_with_windows_of_their_own_may_go(name: str):
    result = surgeon.shrink(Tokens(WHOLE[name]), X, 0.5, measure=False)
    assert result.check is not None and result.way == "module"
    assert result.model.embed.out_features == 4  # type: ignore[union-attr]
    assert result.reach is not None and result.reach.share > 0.9


@pytest.mark.parametrize("name", TORN)
def test_channels_that_windows_join_stay(name: str):
    function, why = TORN[name]
    groups = {g.name: g.why_not for g in surgeon.trace(Tokens(function), X).groups}
    assert why in (groups["embed"] or "")


def test_a_size_written_in_the_code_follows_in_a_program():
    result = surgeon.shrink(Tokens(lambda x: F.interpolate(x, size=(24, 8))), X, 0.5, measure=False)
    assert result.way == "program"
    assert result.model.get_parameter("embed.weight").shape == (4, 5)


def test_places_of_the_largest_are_refused_by_the_oracle():
    """Whatever a plan says: counted through all of space, they are others once channels are gone."""
    model = Tokens(largest_at)
    plan = surgeon.shrink(Tokens(WHOLE["avg"]), X, 0.5, measure=False).plan
    with (
        surgeon.mask(model, plan),
        pytest.raises(surgeon.CheckFailed, match=r"positions that aten\.max_pool2d"),
    ):
        model(X)


def test_funnel_pools_its_tokens():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.FunnelConfig(
        vocab_size=20, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=24
    )
    model = transformers.FunnelForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.arange(3, 19).repeat(2, 1)}
    result = surgeon.shrink(model, inputs, 0.5, measure=False, program=True)
    assert result.check is not None and result.reach is not None and result.reach.share > 0.99
