"""Sizes that a module's attributes hold, however they hold them, follow the cut where its code reads them; the rest is left alone."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import draw
from torch import Tensor, nn

import surgeon

X = draw(4, 6)


class Holding(nn.Module):
    """Its inner width, 12, is what `read` finds in `held`, which holds 12 elsewhere, too."""

    def __init__(self, held: Any, read: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.out = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self._held, self.read, self.epochs = held, read, 12

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.stem(x).relu())
        return self.out(x.view(-1, self.read(self._held)).relu())


@pytest.mark.parametrize(
    ("held", "read", "cut"),
    [
        (12, lambda held: held, 6),
        ((("d", 12), ("n", 3)), lambda held: dict(held)["d"], (("d", 6), ("n", 3))),
        ({"inner": 12, "on": True}, lambda held: held["inner"], {"inner": 6, "on": True}),
        ([{"sizes": (7, 12)}], lambda held: held[0]["sizes"][1], [{"sizes": (7, 6)}]),
    ],
)
def test_numbers_within_what_is_held(held: Any, read: Any, cut: Any):
    model = Holding(held, read)
    result = surgeon.shrink(model, X, 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert result.model._held == cut and result.model.epochs == 12
    assert model._held == held
    assert {g.name: g.kept for g in result.plan.groups} == {"stem": 8, "inner": 6}


def padded(x: Tensor, planes: int, stride: int) -> Tensor:
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, planes - x.shape[1]))


class Shortcut(nn.Module):
    """A residual network's shortcut without weights: a function and the width that it is to have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.c, self.out = nn.Conv2d(32, 32, 3, 1, 1), nn.Linear(32, 5)
        self.short = partial(padded, planes=32, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = (self.short(x) + self.c(self.b(x).relu())).relu()
        return self.out(x.mean((2, 3)))


def test_arguments_of_a_partial_function():
    model = Shortcut()
    result = surgeon.shrink(model, draw(2, 3, 8, 8), 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert result.model.short.keywords["planes"] == result.model.c.out_channels < 32
    assert result.model.short.keywords["stride"] == 2 and model.short.keywords["planes"] == 32


class Compared(nn.Module):
    """Its width is compared and given to no op, and the model holds the same number for something else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block, self.out = nn.Linear(16, 16), Checked(16), nn.Linear(16, 3)
        self.known = 16  # features of the inputs, which stay

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.stem(x.view(-1, self.known))))


class Checked(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.width = nn.Linear(width, 24), width
        self.back = nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.width:
            raise ValueError(f"expected {self.width} channels")
        return x + self.back(self.layer(x).relu())


def test_what_is_compared_follows_and_its_like_is_left():
    result = surgeon.shrink(Compared(), draw(4, 16), 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert (result.model.block.width, result.model.known) == (8, 16)


class Block(nn.Module):
    """Says how wide the state beside it is, which it never sees itself."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.epochs = 12, 12
        self.layer = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Above(nn.Module):
    """The width of one part is its block's, the other part is what is left (RAFT)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block, self.out = nn.Linear(6, 32), Block(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        state, rest = torch.split(x, [self.block.state, x.shape[1] - self.block.state], 1)
        return self.out(state.relu()) + self.block(rest.relu())


def test_what_a_modules_forward_reads_of_its_child():
    result = surgeon.shrink(Above(), X, 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    assert (result.model.block.state, result.model.block.epochs) == (6, 12)
    assert result.model.stem.out_features == 16


class Angles(nn.Module):
    """A table beside the network, which a method gives: its forward is never run (rotary embeddings of DINOv3 in timm)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.epochs = dim, dim
        self.register_buffer("periods", torch.rand(dim // 2) + 1, persistent=False)

    def table(self, places: int) -> Tensor:
        assert self.periods.numel() == self.dim // 2
        angles = torch.arange(places)[:, None] / self.periods
        return torch.cat([angles.sin(), angles.cos()], 1)


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleDict({"angles": Angles(16)})
        self.stem, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out((x * self.tables["angles"].table(x.shape[1])).tanh())


def test_what_a_method_of_a_module_reads():
    result = surgeon.shrink(Turned(), draw(2, 5, 6), 0.5, round_to=1, measure=False)
    assert result.way == "module" and result.check is not None
    angles = result.model.tables["angles"]
    assert (angles.dim, angles.epochs, len(angles.periods)) == (8, 16, 4)


class Heads(nn.Module):
    """Keeps a size twice, the second made of the first where it is built or copied. As einops' layers do."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self._made()

    def _made(self) -> None:
        self.pairs = tuple(self.sizes.items())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "pairs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._made()

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1, dict(self.pairs)["d"]).transpose(1, 2)


def test_a_size_that_is_kept_twice_follows_in_both():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.v, self.out = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 3)
            self.split = Heads(d=8)

        def forward(self, x: Tensor) -> Tensor:
            q, v = self.split(self.q(x)), self.split(self.v(x))
            seen = (q @ q.mT).softmax(-1) @ v
            return self.out(seen.transpose(1, 2).flatten(2))

    x = torch.randn(2, 5, 6)
    result = surgeon.shrink(Net(), x, 0.5, measure=False)
    assert result.way == "module" and result.check is not None
    assert result.model.split.pairs == (("d", result.model.split.sizes["d"]),) == (("d", 4),)
    assert result.model(x).shape == (2, 5, 3)
