"""What a forward keeps for its next run is no part of the network: it is made anew in a cut copy."""

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.trace.inputs import Inputs
from surgeon.trace.remembered import forgotten

X = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))


class Biased(nn.Module):
    """A bias of all positions, computed once; in a table by device, or in an attribute."""

    def __init__(self, table: bool) -> None:
        super().__init__()
        self.table, self.cache, self.once = table, {}, None
        self.embed, self.bias, self.head = nn.Linear(6, 16), nn.Embedding(20, 16), nn.Linear(16, 5)

    def made(self, x: Tensor) -> Tensor:
        return self.bias.weight[torch.arange(x.shape[1]).flip(0)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if self.table:
            if str(x.device) not in self.cache:
                self.cache[str(x.device)] = self.made(x)
            return self.head(x + self.cache[str(x.device)])
        if self.once is None:
            self.once = self.made(x)
        return self.head(x + self.once)


class Counting(nn.Module):
    """Keeps a state that is no copy of anything: its outputs depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(6, 5), torch.zeros(2, 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.last = x if self.last is None else x + self.last
        return self.head(self.last)


@pytest.mark.parametrize("table", [True, False])
def test_a_network_that_was_run_is_cut_as_one_that_was_not(table: bool):
    plans = []
    for ran in (False, True):
        torch.manual_seed(0)
        net = Biased(table).eval()
        if ran:
            net(X)
        result = surgeon.shrink(net, X, 0.5, measure=False)
        assert result.way == "module" and result.model.bias.embedding_dim == 8  # type: ignore[union-attr]
        assert not result.model.cache and result.model.once is None
        plans.append(result.plan.keep)
        result.model(X)
        assert surgeon.check(net, result.model, result.plan, X).error < 1e-9
    assert plans[0] == plans[1]
    assert net.cache or net.once is not None  # the caller's own is as it was


def test_a_network_that_remembers_nothing_is_not_copied():
    net = Biased(True).eval()
    assert forgotten(net, Inputs.of(X)) is net


def test_a_state_is_kept():
    net = Counting().eval()
    net(X)
    assert forgotten(net, Inputs.of(X)) is net


def test_what_is_older_than_the_weights_is_kept():
    """The outputs are made with it, and so they would be others."""
    net = Biased(False).eval()
    with torch.no_grad():
        net(X)
        net.bias.weight += 1
    assert forgotten(net, Inputs.of(X)) is net
