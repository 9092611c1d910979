"""Where neither surgery can cut a network, the size in its code that stands in the way is named by its line."""

import inspect

import pytest
import torch
from nets import draw
from torch import Tensor, nn

import surgeon
from surgeon.errors import SurgeonError


class Routed(nn.Module):
    """Experts by index, which torch.export refuses; `width` is None or written out."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.gate, self.out = nn.Linear(6, 16), nn.Linear(16, 2), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.reshape(-1, 16 if self.width else x.shape[-1])
        chosen, y = self.gate(x).argmax(-1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            (here,) = torch.where(chosen == number)
            if here.numel():
                y = y.index_add(0, here, expert(x[here]))
        return self.out(x + y)


def test_the_line_and_the_size_are_named():
    x = draw(2, 5, 6)
    lines, first = inspect.getsourcelines(Routed.forward)
    line = first + next(i for i, text in enumerate(lines) if "reshape" in text)
    with pytest.raises(SurgeonError, match="neither surgery") as error:
        surgeon.shrink(Routed(16), x, 0.5, check=False, measure=False)
    assert str(error.value.hint).startswith(
        f"test_written.py:{line}: a size there stays 16 where the cut makes 8 of it"
    )
    assert surgeon.shrink(Routed(None), x, 0.5, check=False, measure=False).way == "module"
