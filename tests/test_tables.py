"""Numbers that a forward makes by position (sines, slopes): their channels go where they are asked for, as a program."""

import math

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.errors import OutOfReach

X = draw(2, 7, 6)
WHY = "its forward makes numbers by position there (frequencies), which only a program can hold"


class Sines(nn.Module):
    """A transformer's table of sines and cosines, as wide as what comes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.inner, self.leave = nn.Linear(6, 16), nn.Linear(16, 20), nn.Linear(20, 5)
        self.back = nn.Linear(20, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.table(x.shape[1], x.shape[2])
        return self.leave(self.inner(x + self.back(self.inner(x).relu())).relu())

    def table(self, length: int, width: int) -> Tensor:
        by = torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        angle = torch.arange(length)[:, None] * by
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class Halves(Sines):
    """Sines first, cosines behind them."""

    def table(self, length: int, width: int) -> Tensor:
        angle = torch.arange(length)[:, None] * 0.5 ** torch.arange(width // 2)
        return torch.cat([angle.sin(), angle.cos()], 1)


@pytest.mark.parametrize("net", [Sines, Halves])
def test_a_plain_ratio_leaves_the_width_and_the_class(net: type[nn.Module]):
    result = surgeon.shrink(net(), X, 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert {g.name: g.kept for g in result.plan.groups} == {"inner": 10}
    left = {x.name: x.why for x in result.plan.left}
    assert left["enter"].startswith(WHY) and "--ratio-for" in left["enter"]
    assert any(n.startswith(WHY) and "stays whole: enter;" in n for n in result.notes)
    assert result.model(X[:, :4]).shape == (2, 4, 5)  # of any length, as before


@pytest.mark.parametrize("net", [Sines, Halves])
def test_the_width_goes_where_it_is_named(net: type[nn.Module]):
    result = surgeon.shrink(
        net(), X, 0.5, ratio_for={"enter": 0.5}, round_to=1, criterion="random", measure=False
    )
    assert result.way == "program" and result.check is not None
    assert {g.name: (g.size, g.kept) for g in result.plan.groups}["enter"] == (8, 4)  # in pairs
    assert result.model.state_dict()["enter.weight"].shape == (8, 6)


@pytest.mark.parametrize("net", [Sines, Halves])
def test_the_width_goes_where_a_program_is_asked_for(net: type[nn.Module]):
    result = surgeon.shrink(net(), X, 0.5, round_to=1, program=True, measure=False)
    assert result.way == "program" and result.model.state_dict()["enter.weight"].shape == (8, 6)
    assert not any(note.startswith(WHY) for note in result.notes)


class Timestep(nn.Module):
    """A diffusion model's embedding of time: no layer makes these channels, a layer only takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.out, self.x = nn.Linear(16, 24), nn.Linear(24, 5), nn.Linear(6, 24)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        angle = step[:, None] * torch.exp(-torch.arange(8) / 8)
        wave = self.time(torch.cat([angle.sin(), angle.cos()], 1)).relu()
        return self.out(self.x(x) + wave[:, None])


def test_channels_that_no_layer_makes_stay():
    inputs = (X, torch.tensor([3.0, 40.0]))
    result = surgeon.shrink(Timestep(), inputs, 0.5, measure=False)
    assert result.way == "module"
    left = {x.name: x.why for x in result.plan.left}
    assert left["time:in"].startswith("numbers that the code makes by position, and no layer does")
    with pytest.raises(OutOfReach, match="no layer does"):
        surgeon.shrink(Timestep(), inputs, 0.5, ratio_for={"time:in": 0.5}, measure=False)


class Mixed(Sines):
    """The table is taken to its mean before it meets a channel: the mean would tell how much is left."""

    def table(self, length: int, width: int) -> Tensor:
        table = super().table(length, width)
        return table - table.mean(1, keepdim=True)


def test_a_table_that_is_mixed_by_itself_stays_whole():
    why = {g.name: g.why_not for g in surgeon.trace(Mixed(), X).groups}["enter"]
    assert why is not None and "that the code makes" in why


class Spaced(Sines):
    """Numbers that are rounded are none that a program could hold for every precision."""

    def table(self, length: int, width: int) -> Tensor:
        angle = torch.arange(length)[:, None] * torch.linspace(0, 1, width // 2)
        return torch.cat([angle.sin(), angle.cos()], 1)


def test_numbers_that_are_rounded_stay():
    why = {g.name: g.why_not for g in surgeon.trace(Spaced(), X).groups}["enter"]
    assert why is not None and "meets positions that aten.linspace.default makes" in why
