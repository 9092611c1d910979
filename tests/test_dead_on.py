"""`--dead` with data: channels that are the same on all of the user's examples go, and the outputs on these stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.cli.main import run
from surgeon.errors import BadInput, OutOfReach

X = torch.zeros(2, 3, 10, 10)
DATA = [torch.rand(5, 3, 10, 10, generator=torch.Generator().manual_seed(k)) for k in range(3)]


class Off(nn.Module):
    """A ReLU whose first three channels are off for inputs from 0 to 1, and a gate that stands at one."""

    def __init__(self, padding: int = 0, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=padding)
        self.head = nn.Linear(6, 4)
        with torch.no_grad():
            self.a.bias[:3] = -50
            self.b.bias[1] = 1e6  # hardsigmoid is one from 3 on: the head sees a constant

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardsigmoid(self.b(self.a(x).relu()), inplace=self.in_place)
        return self.head(x.mean((2, 3)))


def made(padding: int = 0, in_place: bool = False) -> Off:
    torch.manual_seed(0)
    return Off(padding, in_place).eval()


@pytest.mark.parametrize(("padding", "in_place"), [(0, False), (1, False), (0, True)])
def test_what_is_constant_on_the_examples_goes_and_its_constants_are_carried(
    padding: int, in_place: bool
):
    model = made(padding, in_place)
    with pytest.raises(OutOfReach, match="nothing is dead"):
        surgeon.shrink(model, X, dead=True, measure=False)
    slim = surgeon.shrink(model, X, dead=True, data=DATA, measure=False)
    assert isinstance(slim.model, Off)
    assert (slim.model.a.out_channels, slim.model.b.out_channels) == (5, 5)
    assert slim.check is not None
    with torch.no_grad():
        for x in DATA:
            torch.testing.assert_close(slim.model(x), model(x))
        others = torch.rand(4, 3, 10, 10) * 200  # where they are on after all
        assert not torch.allclose(slim.model(others), model(others))
    assert any("dead on 15 examples" in note for note in slim.notes)
    assert slim.plan.model["tuned"]["by"].startswith("constants of channels")


def test_one_example_that_differs_keeps_a_channel():
    model = made()
    weight = model.a.weight[1].detach()
    awake = torch.zeros(1, 3, 10, 10)
    awake[0, :, 3:6, 3:6] = 60 / weight.abs().sum() * weight.sign()  # 60 - 50 at one pixel
    slim = surgeon.shrink(model, X, dead=True, data=[*DATA, awake], measure=False)
    assert slim.model.a.out_channels == 6
    torch.testing.assert_close(slim.model(awake), model(awake))


def test_examples_of_another_size_and_recover_are_refused():
    with pytest.raises(BadInput, match="traced with"):
        surgeon.shrink(made(), X, dead=True, data=[torch.rand(2, 3, 12, 12)], measure=False)
    with pytest.raises(BadInput, match="fits nothing"):
        surgeon.shrink(made(), X, dead=True, data=DATA, recover=("compensate",), measure=False)


def test_the_command_says_on_how_many_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = (
        Path(__file__)
        .read_text()
        .split("X = torch")[0]
        .replace("from surgeon.cli.main import run\n", "")
    )
    source = Path(__file__).read_text()
    body = source[source.index("class Off") : source.index("@pytest.mark.parametrize")]
    (tmp_path / "net.py").write_text(code + body)
    np.save(tmp_path / "x.npy", torch.cat(DATA).numpy())
    out = tmp_path / "slim"
    words = [
        "shrink",
        f"{tmp_path}/net.py:made",
        "--input",
        "1,3,10,10",
        "--dead",
        "--no-onnx",
        "--no-measure",
    ]
    assert run([*words, "--data", f"{tmp_path}/x.npy", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "dead on 15 examples" in said.out + said.err
    assert (
        run(["check", f"{tmp_path}/net.py:made", str(out / "slim.pth"), "--input", "1,3,10,10"])
        == 0
    )
    assert run([*words, "--data", f"{tmp_path}/x.npy", "--recover", "select"]) == 2
