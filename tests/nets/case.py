"""What every net is made of: the `Case`, the registry, and the two bodies that most nets share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One net: `build()` gives it in eval mode, the same each time, and `inputs()` its arguments.

    `cuts` are the modules whose output channels a correct tool can cut: rows of a linear or a conv,
    columns of an embedding, the hidden size of an LSTM or a GRU, heads or head_dim of attention.
    Nothing is said of modules left out.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    cuts: tuple[str, ...]


NETS: dict[str, Case] = {}


def net(*cuts: str, inputs: Callable[[], tuple[Tensor, ...]]):
    """Register the decorated class as a case, under its own name in snake_case."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        name = re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()
        if name in NETS:
            raise ValueError(f"two nets are named {name}")
        NETS[name] = Case(partial(build, cls), inputs, cuts)
        return cls

    return register


def build(cls: type[nn.Module]) -> nn.Module:
    """An instance with the same weights each time, none of them at a default that hides errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(cls()).eval()


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Shake constant float tensors by up to 0.3 (norms, zero biases, layer scales) and double matrices.

    Default weights shrink their input at every layer, until little but the biases is left to compare.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter *= 2
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
            tensor += torch.empty_like(tensor).uniform_(-0.3, 0.3)
    return model


def tensors(output: object) -> list[Tensor]:
    """Every tensor of an output: one, or a tuple, list, dict or dataclass of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if not isinstance(output, (tuple, list)):
        output = list(vars(output).values())
    return [tensor for part in output for tensor in tensors(part)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image() -> tuple[Tensor]:
    return (draw(2, 3, 8, 8),)


def tokens() -> tuple[Tensor]:
    return (draw(2, 10, 12),)


def words() -> tuple[Tensor]:
    return (torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0)),)


def conv(inp: int, out: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inp, out, kernel, padding=kernel // 2, **options)


class ImageNet(nn.Module):
    """f32[N, 3, 8, 8] -> stem of 16 channels -> body, `width` channels -> pool -> head, 5 classes."""

    def __init__(self, width: int = 16, stem: int = 16):
        super().__init__()
        self.stem = conv(3, stem)
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(F.relu(self.stem(x))).mean((2, 3)))


class TokenNet(nn.Module):
    """f32[N, 10, 12] -> embed of 32 channels -> body, `width` channels -> mean -> head, 5 classes."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed = nn.Linear(12, 32)
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))
