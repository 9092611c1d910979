"""What the oracle runs networks on."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

import surgeon
from surgeon.noise import flipped, indexed, noisy
from surgeon.trace.inputs import Inputs

NOISE = torch.Generator().manual_seed(0)
BOXES = torch.tensor([[0, 1.0, 1, 8, 8], [1, 2, 2, 10, 12], [1, 0, 0, 9, 9]])
PICTURES = torch.randn(2, 3, 16, 16, generator=NOISE)
ROWS = torch.cat([torch.tensor([[5.0], [9.0], [7.0]]), torch.randn(3, 4, generator=NOISE)], 1)


class Pooled(nn.Module):
    """Boxes are an input, and each says of which picture it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.more, self.head = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 16, 3),
            nn.Linear(64, 5),
        )

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        x = self.more(self.conv(x).relu()).relu()
        return self.head(roi_align(x, boxes * 0.5, 2).flatten(1))


class Table(nn.Module):
    """The first number of each row is a category."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rest, self.head = nn.Embedding(10, 16), nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.embed(x[:, 0].long()) + self.rest(x[:, 1:])).relu())


class Quantized(nn.Module):
    """Whole numbers are made of what was computed, not of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed, self.head = nn.Linear(5, 16), nn.Embedding(10, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = self.stem(x).mean(-1).sigmoid().mul(9.99).long()
        return self.head(self.embed(code))


@pytest.mark.parametrize(
    ("net", "inputs", "which"),
    [(Pooled, (PICTURES, BOXES), {1}), (Table, (ROWS,), {0}), (Quantized, (ROWS,), set())],
)
def test_positions_in_real_numbers_are_seen(
    net: type[nn.Module], inputs: tuple[Tensor, ...], which: set[int]
):
    given = Inputs.of(inputs)
    found = indexed(net().eval(), given)
    assert found == which
    for changed in (noisy(given, 0, torch.float64, found), flipped(given, 1, found)):
        same = {n for n, t in enumerate(changed.tensors) if torch.equal(t, inputs[n].to(t))}
        assert same == which


@pytest.mark.parametrize(("net", "inputs"), [(Pooled, (PICTURES, BOXES)), (Table, (ROWS,))])
def test_networks_that_are_given_positions_are_proven_and_exported(
    net: type[nn.Module], inputs: tuple[Tensor, ...], tmp_path
):
    result = surgeon.shrink(net().eval(), inputs, 0.5, measure=False)
    assert result.check is not None and result.way == "module"
    surgeon.export_onnx(result.model, tmp_path / "slim.onnx", inputs)
