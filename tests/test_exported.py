"""A .pt2 program loads when it is only a network, and is refused before anything in it runs."""

import json
import operator
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.checkpoint import read

torch.set_num_threads(1)


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


Edit = Callable[[dict[str, Any]], None]


class Net(nn.Module):
    """Strings, containers, symbolic sizes and a constant: all that an honest program holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.GELU("tanh")

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.act(self.conv(x))
        z = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear")
        with torch.no_grad():
            mean = torch.einsum("bchw->bc", y) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return {"flat": y.flatten(1), "both": (z, mean.reshape(-1, 2))}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(Net().eval(), (torch.randn(2, 3, 8, 8),), dynamic_shapes=(sizes,))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    return path


def rewrite(path: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, change(data) if name.endswith(member) else data)


def edit(path: Path, change: Edit) -> None:
    def in_json(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    rewrite(path, "models/model.json", in_json)


def test_an_honest_program_loads_and_computes(file: Path) -> None:
    found = read(file)
    assert found.kind == "program"
    assert found.program is not None
    x = torch.randn(3, 3, 12, 8)
    assert found.program.module()(x)["flat"].shape == (3, 4 * 10 * 6)


def test_a_torchvision_program(tmp_path: Path) -> None:
    model = torchvision.models.shufflenet_v2_x0_5().eval()
    x = torch.randn(2, 3, 64, 64)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    program = read(tmp_path / "m.pt2").program
    assert program is not None
    torch.testing.assert_close(program.module()(x), model(x))


def test_a_rewritten_archive_still_loads(file: Path) -> None:
    edit(file, lambda document: None)
    assert read(file).kind == "program"


def first_node(document: dict[str, Any]) -> dict[str, Any]:
    return document["graph_module"]["graph"]["nodes"][0]


def call(target: str) -> Edit:
    return lambda document: operator.setitem(first_node(document), "target", target)


def rename(document: dict[str, Any]) -> None:
    first_node(document)["name"] = "x = __import__('os').system('true')\n"


def rename_input(document: dict[str, Any]) -> None:
    inputs = document["graph_module"]["graph"]["inputs"]
    inputs[0]["as_tensor"]["name"] = "x=print(1)"


def size(text: str) -> Edit:
    def change(document: dict[str, Any]) -> None:
        values = document["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def structure(kind: str, context: object) -> Edit:
    def change(document: dict[str, Any]) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        spec = {"type": kind, "context": context, "children_spec": []}
        signature["out_spec"] = json.dumps([1, spec])

    return change


def under_another_name(document: dict[str, Any]) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    values["metadata"] = {"sizes": [{"as_expr": {"expr_str": "__import__('os')"}}]}


@pytest.mark.parametrize(
    "change",
    [
        call("torch.serialization.os.system"),
        call("torch.ops.aten.from_file.default"),
        call("torch.ops.aten.save.default"),
        call("torch.ops.mine.anything.default"),
        call("torch.load"),
        call("_operator.methodcaller"),
        call("#extension:thing"),
        rename,
        rename_input,
        size("__import__('os').system('true')"),
        size("().__class__"),
        size("s77.evalf"),
        size("exec(s1)"),
        structure("collections.defaultdict", {"default_factory_module": "os"}),
        structure("builtins.dict", '[{"__enum__": true, "fqn": "os:x"}]'),
        under_another_name,
    ],
)
def test_what_could_run_is_refused(change: Edit, file: Path) -> None:
    edit(file, change)
    with pytest.raises(BadInput, match=r"refusing to load this \.pt2 program") as caught:
        read(file)
    assert "--unsafe-pickle" in str(caught.value.hint)


def test_guards_are_not_compiled(file: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"__import__('os').system('touch {ran}') == 0"
    edit(file, lambda document: operator.setitem(document, "guards_code", [code]))
    program = read(file).program
    assert program is not None
    program.module()(torch.randn(2, 3, 8, 8))
    assert not ran.exists()


def test_pickled_sample_inputs_do_not_run(file: Path, tmp_path: Path) -> None:
    ran, other = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save(((Evil(f"touch {ran}"),), {}), other)
    rewrite(file, "sample_inputs/model.pt", lambda data: other.read_bytes())
    with pytest.raises(BadInput, match="a pickle of more than tensors"):
        read(file)
    assert not ran.exists()


def test_pickled_weights_are_refused(file: Path) -> None:
    def pickled(data: bytes) -> bytes:
        config = json.loads(data)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    rewrite(file, "model_weights_config.json", pickled)
    with pytest.raises(BadInput, match="a pickled object"):
        read(file)


def test_a_compiled_library_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        top = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{top}/data/aotinductor/model/evil.so", b"\x7fELF")
    with pytest.raises(BadInput, match=r"evil\.so, which is no part of an exported network"):
        read(file)


def test_a_damaged_program(file: Path) -> None:
    rewrite(file, "models/model.json", lambda data: data[:100])
    with pytest.raises(BadInput, match="damaged"):
        read(file)
