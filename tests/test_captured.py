"""A program takes the sizes that it was captured with, says which they are, and refuses others by name."""

from pathlib import Path

import pytest
import torch
from nets import draw
from test_cli import quick  # noqa: F401  a fixture
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput
from surgeon.export import export_onnx
from surgeon.report.files import write_program
from surgeon.trace.program import Program, from_exported, to_program


class OneByOne(nn.Module):
    """A Python loop over the batch: export unrolls it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        each = [self.conv(x[i : i + 1]) for i in range(x.shape[0])]
        return self.out(torch.cat(each).relu())


class OneByOneWritten(OneByOne):
    """And a width that is written out, so that only a program can be cut."""

    def forward(self, x: Tensor) -> Tensor:
        each = [self.conv(x[i : i + 1]).view(1, 8, 64) for i in range(x.shape[0])]
        return self.out(torch.cat(each).unflatten(-1, (8, 8)).relu())


class Written(nn.Module):
    """Tokens whose width is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(10, 8), nn.Parameter(torch.randn(16, 8))
        self.inner, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.position[: input_ids.shape[1]]
        return self.out(self.inner(x).relu().view(-1, input_ids.shape[1], 8).mean(1))


IDS = torch.arange(32).view(2, 16) % 10
SAID = "captured with these sizes (* is any): "


def test_a_stored_program_refuses_another_batch_than_it_was_unrolled_for(tmp_path: Path):
    result = surgeon.shrink(OneByOne(), draw(2, 3, 8, 8), 0.5, measure=False)
    assert result.way == "module"
    (said,) = (n for n in surgeon.save(result, tmp_path / "slim.pth") if SAID in n)
    assert said.endswith("input 0 [2, 3, 8, 8]")
    slim = surgeon.load(tmp_path / "slim.pth")
    assert SAID + "input 0 [2, 3, 8, 8]" in slim.notes  # type: ignore[operator]
    assert slim(draw(2, 3, 8, 8)).shape == (2, 2, 8, 8)
    for batch in (1, 3, 5):
        with pytest.raises(
            BadInput, match=rf"takes input 0 \[2, 3, 8, 8\], not \[{batch}, 3, 8, 8\]"
        ):
            slim(draw(batch, 3, 8, 8))
    hints = {}
    for batch in (1, 3):
        with pytest.raises(BadInput, match="captured with that size") as error:
            export_onnx(slim, tmp_path / "slim.onnx", draw(batch, 3, 8, 8), dynamic_batch=False)
        hints[batch] = str(error.value.hint)
    assert "shrink it again with inputs of that size" in hints[3]
    assert "measures is one example: shrink this program by --ratio" in hints[1]
    assert "surgeon bench takes --batch 2" in hints[1]
    own = surgeon.load(tmp_path / "slim.pth", model=OneByOne())
    assert own(draw(5, 3, 8, 8)).shape == (5, 2, 8, 8)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_that_is_fixed_is_the_one_that_was_given(batch: int):
    x = draw(batch, 3, 8, 8)
    result = surgeon.shrink(OneByOneWritten(), x, 0.5)
    assert result.way == "program" and result.check is not None
    assert f"{SAID}input 0 [{batch}, 3, 8, 8]" in result.notes
    assert result.model(x).shape == (batch, 2, 8, 8)


def test_other_sizes_are_refused_by_the_input_s_name_and_the_free_ones_are_taken():
    result = surgeon.shrink(Written(), {"input_ids": IDS}, 0.5, measure=False, program=True)
    assert result.way == "program"
    assert f"{SAID}input_ids [*, 16]" in result.summary()
    assert result.model(input_ids=IDS.repeat(3, 1)).shape == (6, 2)
    refusal = (
        r"this program takes input_ids \[\*, 16\], not \[2, 12\]: it was captured with that size"
    )
    with pytest.raises(BadInput, match=refusal) as error:
        result.model(input_ids=IDS[:, :12])
    assert "shrink it again with inputs of that size" in str(error.value.hint)
    with pytest.raises(BadInput, match=r"not \[16\]"):
        result.model(input_ids=IDS[0])


def test_the_check_is_no_condition_on_a_free_size(tmp_path: Path):
    program = to_program(Written(), {"input_ids": IDS})
    inputs = surgeon.trace(program, {"input_ids": IDS}).inputs
    assert not write_program(program, tmp_path / "slim.pt2", inputs)
    again = from_exported(torch.export.load(tmp_path / "slim.pt2"))
    assert again.sizes == program.sizes == ((None, 16),)
    assert again(input_ids=IDS.repeat(4, 1)).shape == (8, 2)


def test_a_program_of_which_nothing_is_known_takes_what_its_ops_take():
    whole = to_program(nn.Conv2d(3, 4, 3), draw(2, 3, 8, 8))
    older = Program(whole.graph, whole.held(), whole.inputs)
    assert older(draw(2, 3, 9, 9)).shape == (2, 4, 7, 7) and not older.notes
    with pytest.raises(BadInput):
        whole(draw(2, 3, 9, 9))
