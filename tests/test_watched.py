"""How recovery finds its places: layers of two networks by the use of a weight, sums and scales by rules and by running ops on ones."""

from collections.abc import Callable

import pytest
import torch
from nets import NETS
from torch import Tensor, nn

import surgeon
from surgeon.heal.watch import Sum, Watch
from surgeon.trace.inputs import Inputs

torch.set_num_threads(1)


def more(call: Inputs, seed: int) -> Inputs:
    """The same call with other numbers."""
    draw = torch.Generator().manual_seed(seed)

    def drawn(t: Tensor) -> Tensor:
        floats = t.is_floating_point()
        return torch.randn(t.shape, generator=draw) if floats else t[torch.randperm(len(t))]

    return call.map(drawn)


# the cut copy runs other ops, or its rows hold channels that are cut
@pytest.mark.parametrize("name", ["equal_sizes", "class_token", "pooled_twice", "best_tokens"])
def test_a_cut_copy_that_runs_other_ops_is_fitted(name: str) -> None:
    net, x = NETS[name].build(), Inputs.of(NETS[name].inputs())
    data = [more(x, seed) for seed in range(16)]
    how = {"data": data, "recover": ("compensate",), "measure": False, "check": False}
    result = surgeon.shrink(net, x, 0.4, **how)  # type: ignore[arg-type]
    assert result.recovery is not None and result.recovery.layers
    assert result.recovery.fitted < result.recovery.cut


class Two(nn.Module):
    """One layer's result, and then another's that goes on to meet it."""

    def __init__(self, meet: Callable[["Two", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.gain = nn.Parameter(torch.tensor([1.0, 2, 3, 4, 5, 6]))
        self.norm = nn.BatchNorm1d(6, affine=False)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]
        self.meet = meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self, self.first(x).relu(), self.second(x))


def sums(meet: Callable[[Two, Tensor, Tensor], Tensor]) -> tuple[Two, list[Sum]]:
    net, found = Two(meet).eval(), []
    with torch.no_grad(), Watch(net, summed=lambda told, _: found.append(told)) as watch:
        net(torch.randn(3, 4))
    assert all(watch.uses[s.track.layer] == ("second.weight", 0) for s in found)
    return net, found


MEETS: dict[str, tuple[Callable[[Two, Tensor, Tensor], Tensor], float]] = {
    "add": (lambda _, a, b: a + b, 1.0),
    "in place": (lambda _, a, b: b.add_(a), 1.0),
    "alpha": (lambda _, a, b: torch.add(b, a, alpha=3), 3.0),
    "taken off": (lambda _, a, b: b - a, -1.0),
    "taken from": (lambda _, a, b: a - b, -1.0),
    "between": (lambda _, a, b: torch.lerp(a, b, 0.25), 3.0),
}


@pytest.mark.parametrize("name", MEETS)
def test_a_sum_says_how_much_of_the_other_value_it_holds(name: str) -> None:
    meet, by = MEETS[name]
    _, [told] = sums(meet)
    assert told.by == pytest.approx(by)
    assert told.track.scale is None


def test_scales_on_the_way_to_a_sum_are_known() -> None:
    net, [told] = sums(lambda net, a, b: a + (net.norm(b) * net.gain / 2).clone().unsqueeze(0)[0])
    var = net.norm.running_var
    assert isinstance(var, Tensor) and told.track.scale is not None
    assert told.track.mean == "norm.running_mean"
    assert torch.allclose(told.track.scale, net.gain / 2 / (var + net.norm.eps).sqrt())


@pytest.mark.parametrize(
    "meet",
    [
        lambda _, a, b: a + b.relu(),
        lambda _, a, b: a + b * a,
        lambda _, a, b: a + b * b,
        lambda _, a, b: a + torch.dropout(b, 0.5, True),
        lambda _, a, b: a * b,
        lambda net, a, b: a + nn.functional.batch_norm(b, None, None, training=True),
    ],
)
def test_what_is_no_step_along_channels_ends_the_way(
    meet: Callable[[Two, Tensor, Tensor], Tensor],
) -> None:
    assert sums(meet)[1] == []
