"""torch's flex_attention, whose scores a function of the user's changes: recorded, cut and proven as the plain ops it stands for."""

import math
from collections.abc import Callable

import pytest
import torch
from nets import draw
from torch import Tensor, nn
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import surgeon
from surgeon.trace.mode import forward_mode

X = draw(2, 16, 8)
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.attend = 4, attend
        self.stem, self.qkv = nn.Linear(8, 32), nn.Linear(32, 96)
        self.proj, self.out = nn.Linear(32, 32), nn.Linear(32, 3)
        self.slopes = nn.Parameter(torch.randn(4))
        self.requires_grad_(False)  # torch has no gradient of it on a CPU

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = self.attend(self, q, k, v)
        return self.out(x + self.proj(seen.transpose(1, 2).reshape(b, n, -1)))


def plain(_net: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return flex_attention(q, k, v)


def causal(_net: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")
    return flex_attention(q, k, v, block_mask=mask)


def sloped(net: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    slopes = net.slopes
    return flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + slopes[h] * (j - i))


def grouped(_net: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return flex_attention(q, k[:, :2], v[:, :2], enable_gqa=True)


@pytest.mark.parametrize("attend", [plain, causal, sloped, grouped])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_it_is_cut_and_keeps_its_class(attend: Attend):
    before = flex.flex_attention_hop
    result = surgeon.shrink(Net(attend), X, 0.5, measure=False)
    assert result.way == "module" and result.check is not None, result.why
    assert result.model.qkv.weight.shape == (48, 16)
    assert result.model(X).shape == (2, 16, 3)  # torch's own, again
    assert flex.flex_attention_hop is before


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_plain_ops_give_what_it_gives():
    q, k, v = draw(3, 2, 4, 16, 8).unbind()
    with forward_mode(nn.Identity()):
        own = flex_attention(q, k, v)
    assert torch.allclose(own, (q @ k.mT / math.sqrt(8)).softmax(-1) @ v, atol=1e-5)
