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


def attempt(net: type[nn.Module] = Positive) -> Attempt:
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(16, 6)
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


class Written(nn.Module):
    """A width of its code that a cut leaves as it is, and what comes behind it."""

    ran = 0

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x).view(-1, 8)
        Written.ran += 1
        return self.narrow(y.view(len(x), -1))


class Data(Written):
    """The same, and it reads a number of its data."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.sum().item()


def test_a_trial_ends_where_it_differs():
    tried = attempt(Written)
    graph = tried.sizes.coupling.graph
    ran = Written.ran
    came = tried.came()
    assert came is not None and graph.nodes[came].op == "aten.view.default"
    assert Written.ran == ran
    misfit = tried.misfit()
    assert misfit is not None and misfit.at == came
    assert Written.ran == ran + 1


def test_where_data_decide_a_trial_goes_on():
    tried = attempt(Data)
    ran = Written.ran
    assert tried.came() is not None
    assert Written.ran > ran


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
