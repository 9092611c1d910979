"""A call is followed through every stage as the network takes it: keywords, lists, flags."""

import json
from collections import UserDict
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.errors import BadInput
from surgeon.files.inputs import parse_inputs, refilled
from surgeon.pipeline.replay import inputs_of
from surgeon.report.files import write_program
from surgeon.trace.inputs import Inputs
from surgeon.trace.program import to_program
from surgeon.trace.recorded import describe, recorded


class Reader(nn.Module):
    """Tokens, an optional mask, a list of two images and a flag: whatever is given is used."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 5)
        self.see = nn.Conv2d(3, 32, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: list[Tensor] | None = None,
        sharp: bool = False,
    ) -> dict[str, Tensor]:
        x = self.up(self.words(input_ids)).relu()
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        if images is not None:
            x = x + sum(self.see(image).mean((2, 3))[:, None] for image in images)
        x = x.tanh() if sharp else x
        return {"logits": self.down(x)}


def words(batch: int = 2) -> Tensor:
    return torch.randint(0, 50, (batch, 7), generator=torch.Generator().manual_seed(0))


def mask(batch: int = 2) -> Tensor:
    return torch.ones(batch, 7, dtype=torch.int64)


def images(batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, 3, 8, 8), torch.randn(batch, 3, 6, 6)]


@pytest.fixture
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader().eval()


CALLS: dict[str, Any] = {
    "one": words(),
    "positions": (words(), mask()),
    "keywords": {"attention_mask": mask(), "input_ids": words()},
    "both": Inputs((words(),), {"attention_mask": mask(), "sharp": True}),
    "a list as one argument": (words(), None, images()),
    "a list as a keyword, one example": {"input_ids": words(1), "images": images(1)},
}
each = pytest.mark.parametrize("example", CALLS.values(), ids=CALLS.keys())


@each
def test_every_call_is_cut_and_proven_by_both_surgeries(reader: Reader, example: Any):
    result = surgeon.shrink(reader, example, ratio=0.5, measure=False)
    assert result.check is not None
    assert result.way == "module"
    assert result.model.up.out_features == 16
    program = to_program(reader, example)
    cut = surgeon.shrink(program, example, ratio=0.5, measure=False)
    want = Inputs.of(example).run(result.model)["logits"]
    got = Inputs.of(example).run(cut.model)["logits"]
    torch.testing.assert_close(got, want)


@each
def test_a_plan_is_replayed_without_inputs(reader: Reader, example: Any, tmp_path: Path):
    result = surgeon.shrink(reader, example, ratio=0.5, measure=False)
    result.plan.save(tmp_path / "plan.json")
    slim = surgeon.apply(surgeon.Plan.load(tmp_path / "plan.json"), reader)
    call = Inputs.of(example)
    assert torch.equal(call.run(slim)["logits"], call.run(result.model)["logits"])


@each
def test_what_is_saved_opens_with_the_same_call(reader: Reader, example: Any, tmp_path: Path):
    result = surgeon.shrink(reader, example, ratio=0.5, measure=False)
    surgeon.save(result, tmp_path / "slim.pth")
    call = Inputs.of(example)
    want = call.run(result.model)["logits"]
    source = surgeon.open_model(tmp_path / "slim.pth")
    assert source.inputs.names == call.names
    assert source.inputs.run(source.model)["logits"].shape == want.shape
    torch.testing.assert_close(call.run(source.model)["logits"], want)
    filled = surgeon.load(tmp_path / "slim.pth", model=Reader())
    assert torch.equal(call.run(filled)["logits"], want)
    assert write_program(source.model, tmp_path / "slim.pt2", call) == ()
    again = surgeon.open_model(tmp_path / "slim.pt2")
    torch.testing.assert_close(call.run(again.model)["logits"], want)


def test_onnx_inputs_have_the_names_of_the_keywords(reader: Reader, tmp_path: Path):
    call = {"attention_mask": mask(), "input_ids": words(), "images": images()}
    for model in (reader, to_program(reader, call)):
        made = surgeon.export_onnx(model, tmp_path / "x.onnx", call)
        assert made.dynamic_batch
        names = [x.name for x in onnx.load(str(made.path)).graph.input]
        assert names == ["attention_mask", "input_ids", "images_0", "images_1"]


def test_both_networks_are_measured_on_keywords(reader: Reader):
    example = {"input_ids": words(), "attention_mask": mask()}
    counted = surgeon.measure(reader, example, latency=False)
    assert counted.flops == surgeon.measure(reader, (words(), mask()), latency=False).flops > 0


def test_the_tensors_of_a_call_have_names():
    call = Inputs.of((words(), None, images()))
    assert call.names == ["0", "2.0", "2.1"]
    assert Inputs((words(),), {"images": images()}).names == ["0", "images.0", "images.1"]
    assert Inputs.of({"a": {"b": words()}}).names == ["a.b"]


def test_a_mapping_of_any_kind_is_keywords():
    call = Inputs.of(UserDict(input_ids=words()))
    assert call.args == ()
    assert list(call.kwargs) == ["input_ids"]
    assert Inputs.of(call) is call
    with pytest.raises(BadInput, match="keys must be names"):
        Inputs.of({0: words()})


def test_a_batch_of_one_is_doubled_throughout():
    call = Inputs.of((words(1), [mask(1), {"x": mask(1)}], torch.tensor(3), True)).two_at_least()
    assert [tuple(x.shape) for x in call.tensors] == [(2, 7), (2, 7), (2, 7), ()]
    assert call.args[3] is True
    assert Inputs.of((words(1), mask(2))).two_at_least().tensors[0].shape == (1, 7)
    assert Inputs.of((words(3), mask(3))).first().tensors[1].shape == (1, 7)


def test_recorded_inputs_come_back_through_json():
    call = Inputs(
        (words(), [torch.randn(2, 3), (torch.zeros(2, dtype=torch.bool),)], 4),
        {"mask": mask(), "options": {"scale": 0.5, "none": None}},
    )
    back = recorded(json.loads(json.dumps(describe(call))))
    assert back.names == call.names
    assert [(x.shape, x.dtype) for x in back.tensors] == [(x.shape, x.dtype) for x in call.tensors]
    assert back.args[2] == 4
    assert isinstance(back.args[1][1], tuple)
    assert back.kwargs["options"] == {"scale": 0.5, "none": None}
    assert torch.equal(back.kwargs["mask"], mask())
    assert torch.equal(back.args[0], words())
    assert torch.equal(refilled(back).args[0], words())  # tokens that differ go different ways


def test_integers_that_are_one_or_too_many_are_said_by_the_largest():
    same, many = torch.full((2, 7), 3), torch.arange(70_000)
    entries = describe(Inputs.of((same, many, torch.tensor(5))))
    assert all("numbers" not in entry for entry in entries)
    assert [int(x.max()) for x in recorded(entries).args] == [3, 69_999, 5]


def test_plans_from_before_numbers_still_load():
    entry = {"shape": [2, 3], "dtype": "int64", "fill": 4}
    assert recorded([entry]).args[0].tolist() == [[4] * 3] * 2


def test_plans_from_before_names_still_load():
    old = surgeon.Plan({}, {"inputs": [{"shape": [2, 3], "dtype": "float32"}]})
    (x,) = inputs_of(old).args
    assert x.shape == (2, 3)


@pytest.mark.parametrize(
    "entry",
    [{"shape": [2], "dtype": "nn"}, {"dtype": "int64"}, {"shape": [-1], "dtype": "int64"}, 3,
     {"object": "Camera"}, {"list": 3}, {"shape": [2], "dtype": "int64", "fill": "x"},
     {"shape": [2], "dtype": "int64", "numbers": [1]}, {"shape": [2], "dtype": "int64", "numbers": "ab"}],
)  # fmt: skip
def test_damaged_records_are_refused(entry: Any):
    with pytest.raises(BadInput, match="cannot be read"):
        recorded([entry])


def test_the_command_line_names_inputs():
    call = parse_inputs("1,3,8,8; input_ids=1,7:int64;attention_mask = 1,7:int64")
    assert [tuple(x.shape) for x in call.args] == [(1, 3, 8, 8)]
    assert list(call.kwargs) == ["input_ids", "attention_mask"]
    assert call.kwargs["input_ids"].dtype == torch.int64
    with pytest.raises(BadInput, match="behind one that has"):
        parse_inputs("a=1,3;1,3")
    with pytest.raises(BadInput, match="names a twice"):
        parse_inputs("a=1,3;a=1,3")


def test_a_forward_that_fails_is_told_with_names(reader: Reader):
    with pytest.raises(BadInput, match=r"input_ids=i64\[2, 7\], attention_mask=i64\[2, 9\]"):
        surgeon.trace(reader, {"input_ids": words(), "attention_mask": mask().repeat(1, 2)[:, :9]})


def test_recorded_inputs_of_one_shape_differ():
    first, second = recorded(describe(Inputs.of((torch.zeros(2, 3), torch.zeros(2, 3))))).args
    assert not torch.equal(first, second)
