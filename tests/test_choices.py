"""Decisions of the original that the cut copy follows."""

import pytest
import torch
from nets import build
from torch import Tensor, nn

import surgeon

X = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0))


class ReadsConstants(nn.Module):
    """Looks at its inputs where it is not exported, as people write checks; holds a width in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and torch.isnan(x).any():
            raise ValueError("not a number")
        x = self.embed(x).reshape(-1, 10, 4, 4).flatten(2)
        last = torch.arange(x.shape[1]).expand(2, -1).max().item()
        return self.head(x * last)


def test_a_number_that_a_program_does_not_read_is_passed_over():
    result = surgeon.shrink(build(ReadsConstants), X, 0.5, measure=False)
    assert result.way == "program" and result.check is not None


class Untraceable(torch.autograd.Function):
    """Refuses to be run under torch.jit.trace, by which FLOPs are counted."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not under a tracer")
        return x * 2

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class Doubling(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(Untraceable.apply(input))


def test_a_cut_that_is_proven_stays_where_its_cost_cannot_be_told():
    net = Doubling(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    result = surgeon.shrink(net, X, 0.5)
    assert result.measured is None and result.check is not None
    assert any(note.startswith("not measured: ") for note in result.notes)
    in_steps = surgeon.shrink(net, X, 0.5, steps=2)
    assert in_steps.measured is None
    assert any(note.startswith("not measured: ") for note in in_steps.notes)


class Halves(nn.Module):
    """Keeps a width in a tensor, and reads it where it slices; with `many`, how much comes out is drawn."""

    def __init__(self, many: bool = False) -> None:
        super().__init__()
        self.width, self.many = 16, many
        self.embed, self.head = nn.Linear(6, 32), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, width = self.embed(x), torch.IntTensor([self.width])
        x = self.head(x[..., : width[0]].tanh() * x[..., width[0] :].sigmoid())
        return x.repeat(1, int(torch.randint(1, 9, ())), 1) if self.many else x


@pytest.mark.parametrize("many", [False, True])
def test_a_width_that_is_read_from_a_tensor_is_the_cut_models_own(many: bool):
    result = surgeon.shrink(Halves(many).eval(), X, 0.5, measure=False)
    assert result.way == "module" and result.check is not None
    assert result.model.width == 8


class TheLargestOfMasked(nn.Module):
    """Attention to the three tokens with the highest scores among those before; the size in its view makes a program of it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 16) for _ in range(3))
        self.o = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(2, 10, 2, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores, least = q @ k.mT, -torch.finfo(x.dtype).max
        scores = scores.masked_fill(torch.ones(10, 10, dtype=torch.bool).triu(1), least)
        low = scores.topk(3, dim=-1)[0][..., -1:]
        weights = scores.masked_fill(scores < low, least).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(2, 10, -1))


def test_what_a_mask_fills_in_before_a_decision_is_the_same_in_a_program():
    result = surgeon.shrink(build(TheLargestOfMasked), X, 0.5, measure=False)
    assert result.way == "program" and result.check is not None
