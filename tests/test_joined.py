"""Widths that a forward takes one for the other lose the same share, so that it follows at any ratio."""

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.pipeline.followed import OWN_FORWARD

SAME = "the same share goes, so that its own forward and its config follow"


class Attention(nn.Module):
    """As it is mostly written: heads x head_dim is the width of what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((seen @ v).transpose(1, 2).reshape(b, n, c))


class Encoder(nn.Module):
    def __init__(self, width: int = 108, heads: int = 9) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.out = nn.Linear(7, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(Attention(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.out(x.mean(1))


class Beside(nn.Module):
    """Two layers that the code wants of one width; nothing else binds them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 32), nn.Linear(6, 32)
        self.c, self.d = nn.Linear(32, 3), nn.Linear(32, 3)
        self.a.weight.data[::2] *= 1e-3  # half of it goes first where all compete

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        assert a.shape == b.shape
        return self.c(a.relu()) + self.d(b.relu())


class Torn(Beside):
    """The code wants what no shares give: twice as much of one as of the other, in a layer of the same width."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        return self.c(a) + self.d(b.view(-1, 32))


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.7])
def test_heads_and_head_dim_make_the_width(ratio: float):
    result = surgeon.shrink(Encoder(), draw(2, 5, 7), ratio, measure=False)
    assert result.way == "module" and result.check is not None, result.why
    width = result.model.stem.out_features
    for block in result.model.blocks:
        assert block.heads * (block.qkv.out_features // 3 // block.heads) == width
    assert abs(width / 108 - (1 - ratio)) < 0.06
    result.model(draw(3, 9, 7))  # at another length


def test_it_is_said():
    result = surgeon.shrink(Encoder(), draw(2, 5, 7), 0.4, measure=False)
    assert any(note.startswith(SAME) for note in result.notes)
    assert not any(note.startswith(OWN_FORWARD) for note in result.notes)


def test_heads_that_go_take_as_much_of_the_width_with_them():
    result = surgeon.shrink(
        Encoder(96, 8), draw(2, 5, 7), 0.3, cut=("heads", "width"), measure=False
    )
    assert result.way == "module", result.why
    heads, width = result.model.blocks[0].heads, result.model.stem.out_features
    assert heads < 8 and width == heads * 12


def test_where_all_channels_compete_equal_widths_stay_equal():
    apart = surgeon.propose(Beside(), draw(8, 6), 0.3, scope="global", round_to=1).plan
    assert len(apart.keep["a.weight"][0]) != len(apart.keep["b.weight"][0])
    result = surgeon.shrink(Beside(), draw(8, 6), 0.3, scope="global", round_to=1, measure=False)
    assert result.way == "module", result.why
    assert result.model.a.out_features == result.model.b.out_features == 23


def test_where_that_does_not_help_what_stays_is_told():
    result = surgeon.shrink(
        Torn(), draw(8, 6), 0.3, scope="global", round_to=1, measure=False, program=False
    )
    assert result.way == "module"
    assert (result.model.a.out_features < 32, result.model.b.out_features) == (True, 32)
    assert any(note.startswith(OWN_FORWARD) for note in result.notes)


class Decoder(nn.Module):
    """Its code writes out a width, so that a program is all that follows, whatever loses the same share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.mean, self.spread = nn.Linear(32 * 49, 12), nn.Linear(32 * 49, 12)
        self.back, self.up = nn.Linear(12, 32 * 49), nn.ConvTranspose2d(32, 16, 3, 2, 1, 1)
        self.out = nn.ConvTranspose2d(16, 1, 3, 2, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x).relu().flatten(1)
        mean, spread = self.mean(x), self.spread(x)
        return self.out(self.up(self.back(mean).view(-1, 32, 7, 7)).relu()), mean, spread


def test_a_program_needs_no_equal_shares():
    result = surgeon.shrink(Decoder(), draw(2, 1, 28, 28), 0.3, measure=False)
    assert result.way == "program"
    assert not any(note.startswith(SAME) for note in result.notes)
