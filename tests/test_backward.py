"""Networks whose forward asks for gradients: cut, and proven against the masked original."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgeon
from surgeon.measure.count import flops

torch.set_num_threads(1)


class Force(nn.Module):
    """An energy, and its gradient as the forward's own output: layers run twice, once backwards."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(12, 16), nn.LayerNorm(16), nn.Linear(16, 24)
        self.energy = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            hidden = torch.tanh(self.second(self.norm(torch.sigmoid(self.first(x)))))
            energy = self.energy(hidden)
            (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, -force


class PictureForce(nn.Module):
    """The gradient of a score towards the picture, through a batch norm and a pool."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.second, self.score = nn.Conv2d(16, 24, 3, groups=4), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            hidden = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
            score = self.score(F.silu(self.second(hidden)).mean((2, 3)))
            return torch.autograd.grad(score.logsumexp(1).sum(), x, create_graph=True)[0]


NETS = {"force": (Force, (2, 10, 12)), "picture": (PictureForce, (2, 3, 12, 12))}


@pytest.mark.parametrize("name", NETS)
def test_layers_that_run_backwards_too_are_cut(name: str):
    torch.manual_seed(0)
    build, shape = NETS[name]
    net = build().double().eval()
    result = surgeon.shrink(net, torch.randn(shape).double(), 0.5, measure=False)
    assert result.check is not None and result.check.error < 1e-12
    assert result.model.first.weight.shape[0] == 8
    assert result.model.second.weight.shape[0] == 12


def test_what_cannot_be_counted_is_not_said_to_fail():
    with pytest.raises(surgeon.BadInput, match=r"FLOPs cannot be counted: torch\.jit\.trace"):
        flops(Force().eval(), torch.randn(2, 10, 12))
