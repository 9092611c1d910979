"""Layers that only a forward in train mode runs are cut with what they read, or left whole by name."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import randomise
from torch import Tensor, nn

import surgeon
from surgeon.budget.cost import Cost
from surgeon.couple import couple
from surgeon.measure.count import flops
from surgeon.trace.record import record

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A stem, a body and a head, and GoogLeNet's second head on the stem, for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 5)
        self.aside, self.second = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        out = self.head(self.norm(self.body(x)).mean((2, 3)))
        return (out, self.aux(x)) if self.training else out

    def aux(self, x: Tensor) -> Tensor:
        return self.second(self.drop(F.relu(self.aside(x)).mean((2, 3))))


class Literal(Auxiliary):
    """Its eval forward has a width written into it: only a program follows, which has no second head."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training:
            return super().forward(x)
        return self.head(self.norm(self.body(F.relu(self.stem(x)))).mean((2, 3)).view(-1, 24))


class LiteralAside(Auxiliary):
    """The same in the second head."""

    def aux(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.aside(x)).mean((2, 3)).view(-1, 12))


class WantsTargets(Auxiliary):
    """Its training forward does not run on these inputs."""

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if self.training and target is None:
            raise ValueError("targets, please")
        return super().forward(x)


class Dropped(nn.Module):
    """What only training reads comes before layers that are dropped now and then (wav2vec 2's masked spans)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.span = nn.Linear(8, 12), nn.Parameter(torch.rand(12))
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.training:
            masked = torch.zeros(x.shape[:-1], dtype=torch.bool)
            masked[:, : int(np.random.randint(1, 3))] = True
            x[masked] = self.span
        for layer in self.layers:
            if self.training and torch.rand([]) < 0.5:
                continue
            x = x + F.relu(layer(x))
        return self.head(x)


def shrunk(kind: type[Auxiliary]) -> tuple[Auxiliary, surgeon.Result]:
    model = randomise(kind()).eval()
    return model, surgeon.shrink(model, X, 0.5, measure=False)


def test_the_second_head_follows_the_stem() -> None:
    model, result = shrunk(Auxiliary)
    slim = result.model
    assert (result.way, slim.stem.out_channels, slim.aside.in_channels) == ("module", 8, 8)
    assert (slim.aside.out_channels, slim.second.in_features, slim.second.out_features) == (6, 6, 5)
    kept = result.plan.keep["aside.weight"]
    rows = model.aside.weight[list(kept[0])][:, list(kept[1])]
    assert torch.equal(slim.aside.weight, rows)
    assert any("training forward alone" in n and "aside.weight" in n for n in result.notes)


def test_the_slim_network_trains() -> None:
    _, result = shrunk(Auxiliary)
    before = result.model.norm.running_mean.clone()
    out, aux = result.model.train()(X)
    (out.square().sum() + aux.square().sum()).backward()
    assert not torch.equal(before, result.model.norm.running_mean)
    assert all(p.grad is not None for p in result.model.parameters())


def test_the_model_and_its_mode_are_left_alone() -> None:
    model = randomise(Auxiliary()).eval()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    surgeon.trace(model, X)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_the_training_forward_costs_nothing() -> None:
    model = Auxiliary().eval()
    cost = Cost(couple(record(model, (X,))))
    empty = cost.total(couple(record(model, (X,))).classes.derived & False)
    assert empty.flops == flops(model, (X,)).total


def test_a_program_has_no_second_head_and_its_weights_follow_all_the_same() -> None:
    _, result = shrunk(Literal)
    assert result.way == "program"
    assert dict(result.model.named_parameters())["aside.weight"].shape == (6, 8, 1, 1)


def test_a_second_head_that_cannot_follow_sends_it_to_a_program() -> None:
    _, result = shrunk(LiteralAside)
    assert result.way == "program"
    assert result.check is not None


def test_a_training_forward_that_fails_leaves_its_layers_whole() -> None:
    _, result = shrunk(WantsTargets)
    assert result.model.aside.weight.shape == (12, 16, 1, 1)
    assert result.model.stem.out_channels == 8
    (note,) = (n for n in result.notes if "left whole: aside.weight" in n)
    assert note.endswith("where it is used, it may not fit what was cut")


def test_layers_are_dropped_by_numbers_that_are_drawn() -> None:
    model, x = randomise(Dropped()).eval(), torch.rand(2, 6, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    assert result.way == "module"
    assert result.model.span.shape == (6,)
    assert result.model.train()(x).shape == (2, 6, 5)


def test_nobody_elses_numbers_are_drawn() -> None:
    model, x = Dropped().eval(), torch.rand(2, 6, 8)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert surgeon.trace(model, x).coupling.graph.training is not None
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("kind", [Auxiliary, Literal])
def test_the_plan_is_replayed(kind: type[Auxiliary]) -> None:
    model, result = shrunk(kind)
    again = surgeon.apply(result.plan, model, X)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name])


class Codebook(nn.Module):
    """A vector quantizer: the nearest codes, and in train mode their moving averages, which eval mode never reads."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.norm, self.dec = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.codes = nn.Embedding(16, 8)
        self.register_buffer("average", torch.rand(16, 8))
        self.register_buffer("count", torch.ones(16))

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        z = self.norm(self.enc(x))
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        codes = self.codes.weight
        distance = (codes * codes).sum(1) - 2 * flat @ codes.t()
        nearest = distance.min(1)[1]
        if self.training:
            self.follow(flat, F.one_hot(nearest, 16).float(), target)
        q = self.codes(nearest.view(len(x), *x.shape[2:])).permute(0, 3, 1, 2)
        return self.dec(z + (q - z).detach())

    @torch.no_grad()
    def follow(self, flat: Tensor, hot: Tensor, target: Tensor | None) -> None:
        self.count.mul_(0.9).add_(hot.sum(0), alpha=0.1)
        self.average.mul_(0.9).add_(hot.t() @ flat, alpha=0.1)
        self.codes.weight.copy_(self.average / self.count[:, None])


class Supervised(Codebook):
    """Its training forward does not run without targets."""

    def follow(self, flat: Tensor, hot: Tensor, target: Tensor | None) -> None:
        assert target is not None
        super().follow(flat, hot, target)


class Aside(Codebook):
    """Its codes follow nothing; a number of its own counts the calls."""

    def follow(self, flat: Tensor, hot: Tensor, target: Tensor | None) -> None:
        self.count.add_(1)


def test_a_moving_average_of_training_is_cut_with_what_it_follows() -> None:
    model = randomise(Codebook()).eval()
    result = surgeon.shrink(model, X, 0.5, measure=False)
    slim = result.model
    assert (result.way, slim.average.shape, slim.codes.weight.shape) == ("module", (16, 4), (16, 4))
    assert result.plan.keep["average"][1] == result.plan.keep["codes.weight"][1]
    assert any("training forward alone" in n and "average" in n for n in result.notes)
    slim.train()(X)
    assert torch.isfinite(slim.codes.weight).all()


def test_what_only_a_failing_training_forward_reads_is_told() -> None:
    result = surgeon.shrink(randomise(Supervised()).eval(), X, 0.5, measure=False)
    assert result.model.average.shape == (16, 8)
    (note,) = (n for n in result.notes if "leaves unread" in n)
    assert "average, count (2 tensors)" in note


def test_a_buffer_that_meets_no_layer_asks_for_no_training_forward() -> None:
    assert record(randomise(Codebook()).eval(), (X,)).training is not None
    assert record(randomise(Aside()).eval(), (X,)).training is None


@pytest.mark.parametrize("persistent", [False, True])
def test_training_is_not_tried_for_running_statistics_and_tables(persistent: bool) -> None:
    modes = []

    class Watched(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(input)

    net = Watched(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    net.register_buffer("table", torch.rand(8), persistent=persistent)
    assert record(net, (X,)).training is None
    assert modes == ([False, True] if persistent else [False])


class Counts(Auxiliary):
    """How often its head runs is a number that its code reads of a tensor, so that a layer that no run reached may be one that another run does."""

    def __init__(self) -> None:
        super().__init__()
        self.times = torch.tensor([1.0])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = super().forward(x)
        return out if self.times[0] > 0 else x


def test_what_training_alone_runs_needs_no_other_proof_where_numbers_are_read():
    torch.manual_seed(0)
    result = surgeon.shrink(Counts().eval(), X, 0.5, measure=False)
    assert result.check is not None and result.model.aside.weight.shape[1] == 8
    assert any("by the training forward alone" in note for note in result.notes)
