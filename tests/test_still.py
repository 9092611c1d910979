"""Random numbers held still: seeded where both networks draw as many, one number for all where they do not."""

import pytest
import torch
from nets import build
from torch import Tensor, nn

import surgeon
from surgeon.still import drawing, held_still

X = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))


class Sampled(nn.Module):
    """Reads a few positions, drawn anew in each forward; which rows go on depends on them. As
    Informer's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        drawn = x[:, torch.randint(10, (10, 5))]  # batch, rows, five others of each, width
        wide = (drawn * x[:, :, None]).sum(-1)
        best = (wide.amax(-1) - wide.mean(-1)).topk(3).indices
        return self.head(x.gather(1, best[:, :, None].expand(-1, -1, x.shape[-1])))


def test_which_positions_are_drawn_is_the_same_in_both():
    result = surgeon.shrink(build(Sampled), X, 0.5, measure=False)
    assert result.check is not None and result.check.error < 1e-9
    assert result.model.embed.out_features == 8  # type: ignore[union-attr]


def test_as_many_numbers_are_drawn_with_one_seed_and_others_are_one_number():
    def drawn(alike: set[tuple[int, tuple[int, ...]]]) -> list[Tensor]:
        with held_still(alike) as held, drawing():
            out = [torch.rand(4), torch.rand(4), torch.randint(9, (3,))]
        assert held.drawn == [(0, (4,)), (1, (4,)), (2, (3,))]
        return out

    first, second, third = drawn({(1, (4,)), (2, (4,))})
    assert first.unique().numel() == 1 and third.tolist() == [0, 0, 0]
    assert second.unique().numel() == 4
    assert torch.equal(second, drawn({(1, (4,))})[1])
    assert not torch.equal(*drawn({(0, (4,)), (1, (4,))})[:2])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_that_is_always_on(p: float):
    """At its default of one half, torch tells nobody the chance."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.dropout(self.first(x).relu(), p, training=True))

    result = surgeon.shrink(build(Drops), X, 0.5, measure=False)
    assert result.check is not None and result.check.error < 1e-9
    assert any("draws random numbers" in note for note in result.notes)
