"""A network's own cache is off while surgeon looks, and on again afterwards."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_cli import quick  # noqa: F401  a fixture
from torch import Tensor, nn

import surgeon
from surgeon.trace.caches import caches_off
from surgeon.trace.program import to_program


class Remembers(nn.Module):
    """A layer that gives its keys back, unless its config says not to; the config of its part is within."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=True, part=SimpleNamespace(use_cache=True))
        self.key, self.head = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        keys = self.key(x).relu()
        out = self.head(keys)
        return (out, keys) if self.config.use_cache or self.config.part.use_cache else (out,)


def test_a_cache_holds_no_channels_and_is_on_again():
    model = Remembers().eval()
    x = torch.randn(2, 12)
    result = surgeon.shrink(model, x, ratio=0.5, measure=False)
    assert result.model.key.out_features == 16
    assert len(result.model(x)) == len(model(x)) == 2
    assert len(to_program(model, x)(x)) == 1
    assert model.config.use_cache is True
    assert model.config.part.use_cache is True


def test_it_is_on_again_after_an_error():
    model = Remembers()
    with pytest.raises(ZeroDivisionError), caches_off(model):
        assert model.config.use_cache is model.config.part.use_cache is False
        raise ZeroDivisionError
    assert model.config.use_cache is model.config.part.use_cache is True


class Recurrent(nn.Module):
    """Keeps a state whose size its code says, unless its cache is off."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=True)
        self.stem, self.head = nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + torch.zeros(len(x), 24) if self.config.use_cache else x)


class State(nn.Module):
    """Two sizes in attributes: one for the whole of a sequence, one for a single step."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.step, self.stem = 24, 24, nn.Linear(8, 24)

    def forward(self, x: Tensor, cache: bool) -> Tensor:
        x = self.stem(x)
        width = self.step if x.shape[1] == 1 else self.whole
        return x + torch.zeros(len(x), 1, width) if cache else x


class Told(nn.Module):
    """Keeps a state, unless its cache is off; two more numbers are as large by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=True)
        self.years, self.days = 24, 24
        self.state, self.head = State(), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.state(x, self.config.use_cache))
        return x + (self.years - 24) + (self.days - 24) if self.config.use_cache else x


def test_sizes_that_only_the_cached_code_reads_follow(tmp_path: Path):
    model, x = Told().eval(), torch.randn(2, 5, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    assert not any("cache" in note for note in result.notes)
    surgeon.save(result, tmp_path / "slim.pth")
    for slim in (result.model, surgeon.load(tmp_path / "slim.pth", model=Told())):
        assert (slim.state.whole, slim.state.step, slim.years, slim.days) == (12, 12, 24, 24)
        assert slim(x).shape == (2, 5, 3) and slim(x[:, :1]).shape == (2, 1, 3)


@pytest.mark.usefixtures("quick")
def test_a_default_call_that_no_longer_runs_is_said():
    model, x = Recurrent().eval(), torch.randn(2, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    assert any("with its cache on, the cut network fails" in note for note in result.notes)
    assert not any("cache" in n for n in surgeon.shrink(Remembers(), torch.randn(2, 12), 0.5).notes)


class Asserts(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.config.use_cache and x.shape[1] != 24:
            raise AssertionError
        return self.head(x)


def test_an_error_without_a_message_is_said_too():
    result = surgeon.shrink(Asserts().eval(), torch.randn(2, 8), 0.5, measure=False)
    assert any("the cut network fails (AssertionError)" in note for note in result.notes)
