"""slim.pth comes back in every way it can, loads without pickle, and refuses what is not sound."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from nets import NETS, draw
from torch import nn

import surgeon
from surgeon.errors import BadInput
from surgeon.files.slim import plan_of, save_safetensors
from surgeon.trace.program import Program

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, width, 3)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.bn1(self.conv1(x)).relu()).relu()
        return self.fc(x.mean((2, 3)))


X = draw(2, 3, 8, 8)


@pytest.fixture
def result() -> surgeon.Result:
    torch.manual_seed(0)
    return surgeon.shrink(Net().eval(), X, 0.5, check=False, measure=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "slim.pth"


class TestWays:
    def test_as_the_program_stored_beside_the_weights(
        self, result: surgeon.Result, file: Path
    ) -> None:
        surgeon.save(result, file)
        back = surgeon.load(file)
        assert isinstance(back, Program)
        assert not back.training
        assert torch.allclose(back(X), result.model(X), atol=1e-6)
        assert back(draw(5, 3, 8, 8)).shape == (5, 5)  # any batch
        assert list(back.state_dict()) == list(result.model.state_dict())

    def test_into_a_fresh_instance(self, result: surgeon.Result, file: Path) -> None:
        surgeon.save(result, file)
        fresh = Net()
        back = surgeon.load(file, model=fresh)
        assert type(back) is Net
        assert not back.training
        assert back.conv1.out_channels == 4
        assert fresh.conv1.out_channels == 8
        assert torch.equal(back(X), result.model(X))

    def test_from_the_recorded_architecture(self, file: Path) -> None:
        torch.manual_seed(0)
        model = torchvision.models.squeezenet1_1().eval()
        x = draw(1, 3, 64, 64)
        result = surgeon.shrink(model, x, 0.5, check=False, measure=False)
        surgeon.save(result, file, arch="torchvision:squeezenet1_1")
        document = torch.load(file, weights_only=True)
        assert document["program"] is None
        back = surgeon.load(file)
        assert isinstance(back, torchvision.models.SqueezeNet)
        assert torch.equal(back(x), result.model(x))

    def test_an_architecture_that_would_come_back_otherwise_is_stored(self, file: Path) -> None:
        model = torchvision.models.squeezenet1_1(num_classes=7).eval()
        x = draw(1, 3, 64, 64)
        result = surgeon.shrink(model, x, 0.5, check=False, measure=False)
        surgeon.save(result, file, arch="torchvision:squeezenet1_1")
        assert torch.allclose(surgeon.load(file)(x), result.model(x), atol=1e-6)

    def test_a_factory_named_in_a_file_is_never_run(
        self, result: surgeon.Result, file: Path, tmp_path: Path
    ) -> None:
        code = tmp_path / "net.py"
        code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        surgeon.save(result, file, arch=f"{code}:make")
        assert torch.allclose(surgeon.load(file)(X), result.model(X), atol=1e-6)
        assert surgeon.open_model(file).model(X).shape == (2, 5)
        assert not (tmp_path / "ran").exists()

    def test_open_model_has_the_recorded_inputs(self, result: surgeon.Result, file: Path) -> None:
        surgeon.save(result, file)
        source = surgeon.open_model(file)
        assert source.inputs.tensors[0].shape == (2, 3, 8, 8)
        assert source.payload is not None
        assert plan_of(source.payload) == result.plan

    @pytest.mark.parametrize(
        "name",
        ["literal_split", "tied_embedding", "rotary", "group_conv", "two_in_two_out", "lstm"],
    )
    def test_hard_cases(self, name: str, file: Path) -> None:
        case = NETS[name]
        result = surgeon.shrink(case.build(), case.inputs(), 0.5, check=False, measure=False)
        surgeon.save(result, file)
        back = surgeon.load(file)
        a, b = back(*case.inputs()), result.model(*case.inputs())
        pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in pairs)

    def test_a_slim_model_shrinks_again_and_trains(
        self, result: surgeon.Result, file: Path
    ) -> None:
        surgeon.save(result, file)
        again = surgeon.shrink(surgeon.load(file), X, 0.5, measure=False)
        assert again.model.get_parameter("conv1.weight").shape[0] == 2
        again.model.train()(X).sum().backward()

    def test_safetensors(self, result: surgeon.Result, tmp_path: Path) -> None:
        from safetensors.torch import load_file

        save_safetensors(result.model, tmp_path / "slim.safetensors")
        state = load_file(tmp_path / "slim.safetensors")
        own = result.model.state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(state[name], own[name]) for name in own)


class Looks(nn.Module):
    """torch.export refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x * 2 if x.mean().item() > 1e6 else x).relu())


def test_a_network_without_a_program_is_stored_for_its_class(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    result = surgeon.shrink(Looks().eval(), x, ratio=0.5, measure=False)
    (note,) = surgeon.save(result, tmp_path / "slim.pth") or ("",)
    assert "holds weights and plan, and no network" in note and "model=Net()" in note
    with pytest.raises(BadInput, match="neither a program nor an architecture"):
        surgeon.load(tmp_path / "slim.pth")
    again = surgeon.load(tmp_path / "slim.pth", model=Looks())
    assert torch.equal(again(x), result.model(x)) and again.a.out_features == 8


class TestFile:
    def test_weights_only_and_nothing_but_tensors_and_text(
        self, result: surgeon.Result, file: Path
    ) -> None:
        surgeon.save(result, file)
        document = torch.load(file, weights_only=True)
        assert (document["format"], document["version"]) == ("surgeon-slim", 1)
        assert json.loads(document["plan"])["format"] == "surgeon-plan"
        for value in document.values():
            values = value.values() if isinstance(value, dict) else [value]
            assert all(v is None or isinstance(v, str | int | torch.Tensor) for v in values)

    def test_is_whole_or_not_there(
        self, result: surgeon.Result, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_bytes(b"old")

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(BadInput, match=r"cannot write .*No space left on device"):
            surgeon.save(result, file)
        assert file.read_bytes() == b"old"
        assert list(file.parent.iterdir()) == [file]

    def test_a_folder_that_cannot_be_written(self, result: surgeon.Result, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BadInput, match="cannot write"):
            surgeon.save(result, tmp_path / "file" / "slim.pth")

    def test_no_slim_file(self, file: Path) -> None:
        torch.save(Net().state_dict(), file)
        with pytest.raises(BadInput, match=r"is not a slim\.pth"):
            surgeon.load(file)


Change = Callable[[dict[str, Any]], object]


def _program(document: dict[str, Any], change: Change) -> None:
    program = json.loads(document["program"])
    change(program)
    document["program"] = json.dumps(program)


def _plan(document: dict[str, Any], change: Change) -> None:
    plan = json.loads(document["plan"])
    change(plan)
    document["plan"] = json.dumps(plan)


class TestHostile:
    def refused(self, result: surgeon.Result, file: Path, change: Change, **how: Any) -> str:
        surgeon.save(result, file)
        document = torch.load(file, weights_only=True)
        change(document)
        torch.save(document, file)
        with pytest.raises(BadInput) as caught:
            surgeon.load(file, **how)
        return str(caught.value)

    @pytest.mark.parametrize(
        "key", ["arch", "way", "state", "constants", "plan", "program", "version"]
    )
    def test_a_key_is_missing(self, result: surgeon.Result, file: Path, key: str) -> None:
        self.refused(result, file, lambda d: d.pop(key))

    @pytest.mark.parametrize("bad", [None, [], 3, {"conv1.weight": "text"}, {3: torch.zeros(1)}])
    @pytest.mark.parametrize("key", ["state", "constants"])
    def test_what_should_be_tensors_is_not(
        self, result: surgeon.Result, file: Path, key: str, bad: object
    ) -> None:
        self.refused(result, file, lambda d: d.update({key: bad}))

    @pytest.mark.parametrize(
        "bad", ["", "{", "[]", "null", "{}", 3, '{"nodes": []}', "[" * 100_000]
    )
    def test_a_program_that_is_none(self, result: surgeon.Result, file: Path, bad: object) -> None:
        self.refused(result, file, lambda d: d.update(program=bad))

    @pytest.mark.parametrize(
        "op", ["aten::from_file.default", "os::system", "aten::add.out", "prim::print"]
    )
    def test_an_op_off_the_list(self, result: surgeon.Result, file: Path, op: str) -> None:
        def change(program: dict[str, Any]) -> None:
            text = json.dumps(program)
            assert "aten::relu.default" in text
            program.clear()
            program.update(json.loads(text.replace("aten::relu.default", op)))

        assert op in self.refused(result, file, lambda d: _program(d, change))

    def test_weights_that_are_missing(self, result: surgeon.Result, file: Path) -> None:
        said = self.refused(result, file, lambda d: d["state"].pop("conv2.weight"))
        assert "conv2.weight" in said

    def test_weights_of_another_shape(self, result: surgeon.Result, file: Path) -> None:
        surgeon.save(result, file)
        document = torch.load(file, weights_only=True)
        document["state"]["conv2.weight"] = torch.zeros(3, 4, 3, 3)
        torch.save(document, file)
        with pytest.raises(BadInput, match="do not fit"):
            surgeon.load(file, model=Net())

    def test_a_class_of_another_shape(self, result: surgeon.Result, file: Path) -> None:
        said = self.refused(result, file, lambda d: None, model=Net(width=7))
        assert "plan" in said or "fit" in said

    def test_no_program_and_no_architecture(self, result: surgeon.Result, file: Path) -> None:
        said = self.refused(result, file, lambda d: d.update(program=None))
        assert "model=Net()" in said

    @pytest.mark.parametrize(
        "arch", ["os:system", "/etc/passwd", "torchvision:nothing", 3, "net.py:make"]
    )
    def test_an_architecture_that_is_none(
        self, result: surgeon.Result, file: Path, arch: object
    ) -> None:
        self.refused(result, file, lambda d: d.update(program=None, arch=arch))

    def test_a_plan_that_does_not_fit(self, result: surgeon.Result, file: Path) -> None:
        def change(plan: dict[str, Any]) -> None:
            plan["keep"]["conv1.weight"]["0"] = [0]

        self.refused(result, file, lambda d: _plan(d, change), model=Net())

    def test_a_program_surgery_does_not_load_into_a_class(self, file: Path) -> None:
        case = NETS["literal_split"]
        model = case.build()
        result = surgeon.shrink(model, case.inputs(), 0.5, check=False, measure=False)
        assert result.way == "program"
        surgeon.save(result, file)
        with pytest.raises(BadInput, match="cut as a program"):
            surgeon.load(file, model=model)

    def test_tampered_bytes(self, result: surgeon.Result, file: Path) -> None:
        surgeon.save(result, file)
        data = bytearray(file.read_bytes())
        weight = result.model.get_parameter("conv2.weight").detach().numpy().tobytes()
        data[data.index(weight) + 9] ^= 0xFF
        file.write_bytes(data)
        with pytest.raises(BadInput, match="damaged"):
            surgeon.load(file)


@torch.library.custom_op("slim_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    """An op of the test's own, which no stored program may name."""
    return x * 2


@scaled.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class OwnOp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu()), torch.ops.slim_tests.scaled(x)


def test_a_network_with_an_op_that_is_not_stored_is_stored_for_its_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = OwnOp().eval(), torch.randn(2, 8)
    result = surgeon.shrink(model, x, 0.5, measure=False)
    assert result.way == "module"
    (said,) = surgeon.save(result, tmp_path / "slim.pth")
    assert "slim_tests::scaled" in said
    loaded = surgeon.load(tmp_path / "slim.pth", model=OwnOp())
    assert torch.equal(loaded(x)[0], result.model(x)[0])
