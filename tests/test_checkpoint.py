"""What people save is read; what is broken or hostile is refused, and nothing of it runs."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.checkpoint import read

torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared" / "checkpoints"


class Mine(nn.Linear):
    """A user's own class, off the allow-list."""


class Other(nn.Linear):
    """Another one."""


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


class EvilPartial:
    """Hides the command in an allowed helper."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return partial, (os.system, self.command)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def same(state: dict[str, torch.Tensor] | None, net: nn.Module) -> bool:
    own = net.state_dict()
    return (
        state is not None
        and state.keys() == own.keys()
        and all(torch.equal(state[name], own[name]) for name in own)
    )


class TestState:
    def test_plain(self, net: nn.Module, file: Path) -> None:
        torch.save(net.state_dict(), file)
        found = read(file)
        assert found.kind == "state"
        assert same(found.state, net)
        assert found.notes == ()

    def test_the_format_before_torch_1_6(self, net: nn.Module, file: Path) -> None:
        torch.save(net.state_dict(), file, _use_new_zipfile_serialization=False)
        assert same(read(file).state, net)

    def test_safetensors(self, net: nn.Module, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        file = tmp_path / "model.safetensors"
        save_file(net.state_dict(), file, {"arch": "torchvision:resnet18"})
        assert same(read(file).state, net)
        assert read(file).arch == "torchvision:resnet18"

    @pytest.mark.parametrize(
        "key", ["state_dict", "model", "model_state_dict", "net", "weights", "model_ema", "mine"]
    )
    def test_a_wrapper(self, key: str, net: nn.Module, file: Path) -> None:
        optimizer = torch.optim.Adam(net.parameters())
        net(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        wrapped = {"epoch": 3, key: net.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(wrapped, file)
        found = read(file)
        assert same(found.state, net)
        assert any(repr(key) in note for note in found.notes)

    def test_wrappers_inside_wrappers(self, net: nn.Module, file: Path) -> None:
        torch.save({"model": {"state_dict": net.state_dict()}}, file)
        assert same(read(file).state, net)

    @pytest.mark.parametrize("ema", ["model_ema", "ema", "state_dict_ema"])
    def test_the_plain_copy_is_preferred_to_an_averaged_one(
        self, ema: str, net: nn.Module, file: Path
    ) -> None:
        averaged = {name: value * 0 for name, value in net.state_dict().items()}
        torch.save({ema: averaged, "model": net.state_dict()}, file)
        found = read(file)
        assert same(found.state, net)
        assert f"beside an averaged copy in {ema!r}" in found.notes[0]

    def test_torchs_own_averaged_model(self, net: nn.Module, file: Path) -> None:
        averaged = torch.optim.swa_utils.AveragedModel(net)
        torch.save({"model_ema": averaged.state_dict()}, file)
        assert same(read(file).state, net)

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
    def test_prefixes(self, prefix: str, net: nn.Module, file: Path) -> None:
        state = OrderedDict((prefix + name, value) for name, value in net.state_dict().items())
        torch.save({"state_dict": state}, file)
        found = read(file)
        assert same(found.state, net)
        assert "taken off the names" in found.notes[-1]

    def test_a_prefix_that_not_every_name_has_stays(self, file: Path) -> None:
        torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, file)
        state = read(file).state
        assert state is not None
        assert list(state) == ["module.a", "b"]

    def test_versions_of_layers_survive_a_prefix(self, file: Path) -> None:
        mnasnet = torchvision.models.mnasnet0_5()  # refuses a state dict without its version
        torch.save(nn.DataParallel(mnasnet).state_dict(), file)
        mnasnet.load_state_dict(read(file).state or {})

    def test_what_training_scripts_put_beside(self, net: nn.Module, file: Path) -> None:
        numpy = pytest.importorskip("numpy")
        args = argparse.Namespace(lr=0.1)
        torch.save({"state_dict": net.state_dict(), "args": args, "acc": numpy.float64(0.5)}, file)
        assert same(read(file).state, net)

    def test_the_arch_entry_is_passed_on_as_written(self, net: nn.Module, file: Path) -> None:
        torch.save({"arch": "evil.py:run", "state_dict": net.state_dict()}, file)
        assert read(file).arch == "evil.py:run"

    def test_a_slim_document(self, file: Path) -> None:
        torch.save({"format": "surgeon-slim", "version": 1, "state": {}}, file)
        found = read(file)
        assert found.kind == "slim"
        assert found.payload is not None
        assert found.payload["version"] == 1

    @pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
    @pytest.mark.parametrize(
        ("name", "keys"),
        [
            ("resnet20-12fca82f.th", 21),
            ("resnet56-4bfd9763.th", 57),
            ("resnet20_cifar10jpeg.pth", 20),
            ("resnet56_cifar10jpeg.pth", 56),
        ],
    )
    def test_published_checkpoints(self, name: str, keys: int) -> None:
        state = read(SHARED / name).state
        assert state is not None
        assert len(state) > keys
        assert not any(key.startswith("module.") for key in state)


class TestModule:
    @pytest.mark.parametrize(
        "name", ["resnet18", "mobilenet_v2", "densenet121", "vit_b_16", "convnext_tiny", "swin_t"]
    )
    def test_torchvision(self, name: str, file: Path) -> None:
        with torch.device("meta"):
            model = torchvision.models.get_model(name)
        torch.save(model, file)
        found = read(file)
        assert found.kind == "module"
        assert type(found.module) is type(model)
        assert found.module.state_dict().keys() == model.state_dict().keys()

    def test_it_computes_the_same(self, file: Path) -> None:
        model = torchvision.models.mobilenet_v2().eval()
        torch.save(model, file)
        module, x = read(file).module, torch.randn(1, 3, 64, 64)
        assert module is not None
        assert torch.equal(module(x), model(x))

    def test_inside_a_wrapper_and_data_parallel(self, net: nn.Module, file: Path) -> None:
        torch.save({"model": nn.DataParallel(net), "arch": "x"}, file)
        found = read(file)
        assert isinstance(found.module, nn.Sequential)
        assert "DataParallel" in found.notes[-1]

    def test_own_classes_are_refused_by_name(self, file: Path) -> None:
        torch.save(nn.Sequential(Mine(1, 1), Other(1, 1)), file)
        with pytest.raises(BadInput) as caught:
            read(file)
        assert f"{__name__}.Mine: not allowed" in caught.value.message
        assert f"{__name__}.Other: not allowed" in caught.value.message
        assert "--allow" in str(caught.value.hint)

    @pytest.mark.parametrize("allow", [f"{__name__}.Mine", f"{__name__}.*", f"{__name__}.M*"])
    def test_allowed_by_name_or_glob(self, allow: str, file: Path) -> None:
        torch.save(Mine(1, 1), file)
        assert type(read(file, (allow,)).module) is Mine

    def test_another_name_does_not_help(self, file: Path) -> None:
        torch.save(Mine(1, 1), file)
        with pytest.raises(BadInput, match=r"Mine: not allowed"):
            read(file, (f"{__name__}.Min", "other.*"))

    @pytest.mark.parametrize("allow", ["*", "*.Mine", "tes?.Mine"])
    def test_an_allowance_of_everything_is_refused(self, allow: str, file: Path) -> None:
        torch.save(Mine(1, 1), file)
        with pytest.raises(BadInput, match="would allow any class"):
            read(file, (allow,))

    def test_a_class_that_is_not_here(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save(Mine(1, 1), file)
        monkeypatch.delattr(f"{__name__}.Mine")
        with pytest.raises(BadInput, match="cannot be found here"):
            read(file, (f"{__name__}.Mine",))

    def test_a_graph_module_is_refused(self, file: Path) -> None:
        torch.save(torch.fx.symbolic_trace(nn.Linear(1, 1)), file)
        with pytest.raises(BadInput, match="fx"):
            read(file)

    def test_a_module_in_the_format_before_torch_1_6(self, net: nn.Module, file: Path) -> None:
        torch.save(net, file, _use_new_zipfile_serialization=False)
        with pytest.raises(BadInput, match="cannot be read safely") as caught:
            read(file)
        assert "Linear" in caught.value.message
        assert same(read(file, unsafe_pickle=True).module.state_dict(), net)

    def test_another_pickle_protocol(self, net: nn.Module, file: Path) -> None:
        torch.save(net, file, pickle_protocol=4)
        with pytest.raises(BadInput, match="a pickle of protocol 4"):
            read(file)

    def test_unsafe_pickle_is_the_way_past(self, file: Path) -> None:
        torch.save(Mine(1, 1), file)
        assert type(read(file, unsafe_pickle=True).module) is Mine


class TestHostile:
    @pytest.mark.parametrize("new", [True, False])
    @pytest.mark.parametrize("evil", [Evil, EvilPartial])
    @pytest.mark.parametrize("allow", [(), ("tests.*", "posixfake.*")])
    def test_a_command_does_not_run(
        self, allow: tuple[str, ...], evil: Any, new: bool, file: Path, tmp_path: Path
    ) -> None:
        ran = tmp_path / "ran"
        torch.save(
            {"state_dict": {}, "x": evil(f"touch {ran}")}, file, _use_new_zipfile_serialization=new
        )
        with pytest.raises(BadInput, match=r"\.system: not allowed"):
            read(file, allow)
        assert not ran.exists()

    def test_a_plain_pickle_does_not_run(self, file: Path, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        file.write_bytes(pickle.dumps(Evil(f"touch {ran}")))
        with pytest.raises(BadInput, match=r"\.system: not allowed"):
            read(file)
        assert not ran.exists()

    def test_the_command_would_have_run(self, file: Path, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        torch.save({"x": Evil(f"touch {ran}")}, file)
        with pytest.raises(BadInput, match="no weights in it"):
            read(file, unsafe_pickle=True)
        assert ran.exists()

    def test_what_an_allowed_module_imported_is_not_allowed(self, file: Path) -> None:
        # GLOBAL '<this file>.os.system', and '<this file>.partial': reachable, and not its own
        for name in ("partial", "os"):
            body = f"\x80\x02c{__name__}\n{name}\n(tR.".encode("latin-1")
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("m/data.pkl", body)
                archive.writestr("m/version", "3")
            with pytest.raises(BadInput, match=f"{name}: not a class defined there"):
                read(file, (f"{__name__}.*",))

    def test_functions_of_torchvision_are_not_allowed(self, file: Path) -> None:
        body = b"\x80\x02ctorchvision.models.resnet\nresnet18\n(tR."
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("m/data.pkl", body)
        with pytest.raises(BadInput, match="not a class defined there"):
            read(file)


class TestBroken:
    def test_missing_brings_the_nearest(self, net: nn.Module, file: Path) -> None:
        torch.save(net, file)
        with pytest.raises(BadInput, match="no such file") as caught:
            read(file.with_name("modle.pth"))
        assert "model.pth" in str(caught.value.hint)
        with pytest.raises(BadInput, match="no such file"):
            read("nowhere/at/all.pth")

    def test_a_directory(self, net: nn.Module, file: Path) -> None:
        torch.save(net, file)
        with pytest.raises(BadInput, match="a directory") as caught:
            read(file.parent)
        assert "model.pth" in str(caught.value.hint)

    def test_empty(self, file: Path) -> None:
        file.touch()
        with pytest.raises(BadInput, match="the file is empty"):
            read(file)

    @pytest.mark.parametrize("new", [True, False])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_truncated(self, share: float, new: bool, net: nn.Module, file: Path) -> None:
        torch.save(net.state_dict(), file, _use_new_zipfile_serialization=new)
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BadInput, match="cut off" if new else "damaged"):
            read(file)

    def test_corrupted(self, file: Path) -> None:
        torch.save({"weight": torch.arange(1000.0)}, file)
        data = bytearray(file.read_bytes())
        for start in (100, len(data) // 2):  # in the pickle, in the numbers
            broken = bytearray(data)
            broken[start : start + 64] = bytes(b ^ 0xFF for b in broken[start : start + 64])
            file.write_bytes(broken)
            with pytest.raises(BadInput, match="damaged"):
                read(file)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"these are not weights\n", "a text file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git-lfs pointer"),
            (b"<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
            (b"\n<HTML>sign in</HTML>", "a web page"),
            (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "HDF5"),
            (b"\x1f\x8b\x08" + b"\0" * 99, "gzip"),
            (bytes(range(128, 256)) * 9, "neither an archive nor a pickle"),
            (b"\x80\x02" + bytes(range(128, 256)), "damaged"),
            (b"PK\x03\x04" + b"\0" * 99, "cut off"),
        ],
    )
    def test_something_else(self, content: bytes, says: str, file: Path) -> None:
        file.write_bytes(content)
        with pytest.raises(BadInput, match=says) as caught:
            read(file)
        assert caught.value.hint
        assert "model.pth" in caught.value.message

    def test_another_zip(self, file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("letter.txt", "hello")
        with pytest.raises(BadInput, match="not one that torch"):
            read(file)

    def test_torchscript(self, net: nn.Module, file: Path) -> None:
        torch.jit.save(torch.jit.trace(net.eval(), torch.zeros(2, 3)), file)
        with pytest.raises(BadInput, match="TorchScript"):
            read(file)

    def test_an_empty_one(self, file: Path) -> None:
        torch.save({}, file)
        with pytest.raises(BadInput, match="it holds a dict with nothing in it"):
            read(file)

    @pytest.mark.parametrize("obj", [{}, {"epoch": 3}, [1, 2], "text", 3, None, {"model": {}}])
    def test_no_weights(self, obj: object, file: Path) -> None:
        torch.save(obj, file)
        with pytest.raises(BadInput, match=f"no weights in it: it holds a {type(obj).__name__}"):
            read(file)

    def test_an_optimizer(self, net: nn.Module, file: Path) -> None:
        torch.save(torch.optim.SGD(net.parameters()).state_dict(), file)
        with pytest.raises(BadInput, match="an optimizer's state"):
            read(file)

    def test_a_broken_safetensors(self, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        file.write_bytes(b"not safetensors at all")
        with pytest.raises(BadInput, match="not safetensors"):
            read(file)

    def test_onnx_is_only_named(self, tmp_path: Path) -> None:
        file = tmp_path / "model.onnx"
        file.write_bytes(b"\x08\x07")
        assert read(file).kind == "onnx"
