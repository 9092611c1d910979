"""A slim module's forward laid beside the planned one, where how much is found depends on the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import surgeon
from surgeon.couple import couple
from surgeon.cut.attempt import Attempt
from surgeon.cut.module import cut_module
from surgeon.cut.sizes import Sizes
from surgeon.planning import removed_by
from surgeon.trace.inputs import Inputs
from surgeon.trace.record import record


class Positive(nn.Module):
    """Gives what is positive: another weight, another number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.wide(x).relu())
        return y[y > 0]


def attempt() -> Attempt:
    torch.manual_seed(0)
    model, x = Positive().eval(), torch.randn(16, 6)
    plan = surgeon.propose(model, x, ratio=0.5).plan
    coupling = couple(record(model, x))
    sizes = Sizes(coupling, removed_by(coupling, plan))
    return Attempt(cut_module(model, plan.keep, sizes), Inputs.of(x), sizes)


def test_what_the_data_decide_is_let_pass_and_not_certain():
    tried = attempt()
    assert tried.misfit() is None
    assert not tried.certain


def test_strictly_another_number_of_results_is_a_misfit():
    assert attempt().misfit(strict=True) is not None


class Signs(nn.Module):
    """Looks at the sign bits of its own channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)
        self.c = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        return self.c(y * (1 + (y.view(torch.int32) >> 31).to(y.dtype)))


def test_channels_that_are_seen_as_bits_stay_and_the_others_go():
    torch.manual_seed(0)
    slim = surgeon.shrink(Signs(), torch.randn(4, 6), ratio=0.5, measure=False)
    assert slim.check is not None
    assert (slim.model.a.out_features, slim.model.b.out_features) == (4, 8)
    assert any("aten.view.dtype" in left.why for left in slim.plan.left)
