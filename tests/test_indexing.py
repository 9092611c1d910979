"""Masks over each element: rows of tokens that they take whole, as language models with pictures read and write them."""

import pytest
import torch
from torch import Tensor, nn

import surgeon

PICTURE = 7
TOKENS = torch.tensor([[1, 2, 7, 7, 7, 3, 4], [5, 7, 7, 7, 6, 0, 1]])
PATCHES = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))


class Pictured(nn.Module):
    """Features of patches in the place of some tokens; their numbers are compared by counting elements."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.project = nn.Embedding(10, 16), nn.Linear(6, 16)
        self.inside, self.head = nn.Linear(16, 12), nn.Linear(12, 5)

    def mask(self, ids: Tensor, x: Tensor) -> Tensor:
        return (ids == PICTURE)[..., None].expand_as(x)

    def join(self, x: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        if x[mask].numel() != features.numel():
            raise ValueError("as many features as places")
        return x.masked_scatter(mask, features)

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        x, features = self.embed(ids), self.project(patches)
        x = self.join(x, self.mask(ids, x), features)
        return self.head(self.inside(x).relu())


class Added(Pictured):
    """The rows are read, and written."""

    def join(self, x: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        x = x.clone()
        x[mask] = x[mask] * 0.5 + features.reshape(-1)
        return x


class Reads(Pictured):
    """The rows go on, as rows."""

    def join(self, x: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        return x[mask].view(features.shape) + features


class Positive(Pictured):
    """A truth of its own for each element."""

    def mask(self, ids: Tensor, x: Tensor) -> Tensor:
        return super().mask(ids, x) & (x > 0)

    def join(self, x: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        return x.masked_fill(mask, 0) + x[mask].sum() + features.sum()


@pytest.mark.parametrize("kind", [Pictured, Added, Reads])
def test_a_mask_of_rows_takes_them_whole(kind: type[Pictured]):
    model = kind()
    result = surgeon.shrink(model, (TOKENS, PATCHES), 0.5, measure=False)
    assert result.check is not None and result.way == "module"
    assert result.model.embed.weight.shape == (10, 8)  # type: ignore[union-attr]
    assert result.reach is not None and result.reach.share > 0.95
    with torch.no_grad():
        result.model.project.weight[3] += 0.5  # type: ignore[union-attr,index]
    with pytest.raises(surgeon.CheckFailed):
        surgeon.check(model, result.model, result.plan, (TOKENS, PATCHES))


def test_other_numbers_of_places_are_refused_as_before():
    slim = surgeon.shrink(Pictured(), (TOKENS, PATCHES), 0.5, measure=False).model
    with pytest.raises(ValueError, match="as many features"):
        slim(torch.zeros_like(TOKENS), PATCHES)
    assert slim(TOKENS.flip(0, 1), PATCHES).shape == (2, 7, 5)


def test_a_mask_of_single_elements_reads_them_by_position():
    groups = {g.name: g.why_not for g in surgeon.trace(Positive(), (TOKENS, PATCHES)).groups}
    assert "indexed by position" in (groups["embed"] or "")
