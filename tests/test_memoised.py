"""What functions keep for the process (functools.lru_cache) is made anew in a recording: no cut depends on what was called before."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.runtimes.torch import exported
from surgeon.trace import memoised
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import to_program

X = draw(4, 8)


@functools.lru_cache(maxsize=8)
def table(width: int) -> Tensor:
    return torch.ones(width).cumsum(0).sin()


@functools.lru_cache
def tables(width: int) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.zeros(width), {"scale": torch.ones(width) * 2}


@functools.lru_cache
def kept_on(device: torch.device, width: int) -> Tensor:
    return torch.full((width,), 0.5, device=device)


OUTSIDE = torch.full((16,), 0.5)  # which nobody can make again


class Net(nn.Module):
    """Its first layer meets a table of its own width."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.out = nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.out(self.second(x * self.made(x)).relu())


MADE = {
    "sin": lambda x: table(x.shape[1]),
    "in a dict": lambda x: tables(x.shape[1])[1]["scale"],
    "by device": lambda x: kept_on(x.device, x.shape[1]),
}


def said(model: nn.Module, **options: Any) -> tuple[Any, ...]:
    result = surgeon.shrink(model, X, 0.5, round_to=1, measure=False, **options)
    assert result.check is not None
    groups = [(g.name, g.kept) for g in result.plan.groups]
    return result.way, groups, [(x.name, x.why) for x in result.plan.left], result.model(X).shape


@pytest.mark.parametrize("made", MADE)
def test_a_second_cut_is_the_first(made: str):
    for function in (table, tables, kept_on):
        function.cache_clear()
    model = Net(MADE[made])
    want = model(X)  # the user's own call fills the cache
    first = said(model)
    assert said(model) == first
    assert first[0] == "module" and not [why for _, why in first[2] if "no parameter" in why]
    assert torch.equal(model(X), want)


@pytest.mark.parametrize("made", MADE)
def test_nothing_without_numbers_is_left_to_the_users_calls(made: str, tmp_path: Path):
    """Not by the trace, which runs on meta, nor by an export, which runs on fake tensors."""
    model = Net(MADE[made])
    for function in (table, tables, kept_on):
        function.cache_clear()
    surgeon.trace(model, X)
    want = model(X)
    timed = partial(exported, title="torch")
    for export in (
        to_program,
        timed,
        lambda *_: surgeon.export_onnx(model, tmp_path / "net.onnx", X),
    ):
        for function in (table, tables, kept_on):
            function.cache_clear()
        export(model, Inputs.of(X))
        assert torch.equal(model(X), want)


def test_a_run_that_fails_leaves_nothing_either():
    def made(x: Tensor) -> Tensor:
        wrong = tables(x.shape[1])[0]
        return wrong.view(3, -1)

    tables.cache_clear()
    with pytest.raises(surgeon.BadInput, match="invalid for input of size 16"):
        surgeon.trace(Net(made), X)
    assert not tables(16)[0].is_meta


def test_a_table_that_follows_its_width_is_cut():
    assert ("first", 8) in said(Net(MADE["in a dict"]))[1]


def test_what_no_function_keeps_stays(monkeypatch: pytest.MonkeyPatch):
    """All objects there are looked through once a run, however often it meets such tensors."""
    looked: list[int] = []
    caches = memoised._caches
    monkeypatch.setattr(memoised, "_caches", lambda: (looked.append(1), caches())[1])
    traced = surgeon.trace(Net(lambda x: x.new_tensor(1.0) * OUTSIDE + OUTSIDE.clone()), X)
    assert len(looked) == 1
    why = traced.coupling.group("first").why_not
    assert why is not None and "no parameter or buffer" in why
