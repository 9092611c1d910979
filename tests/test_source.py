"""Every form of MODEL opens to a module with inputs, or is refused with what to do."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import surgeon
from surgeon.errors import BadInput
from surgeon.files.source import Source, open_model

torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared" / "checkpoints"

NET = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.LazyLinear(2))

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def with_inputs():
    return make(), (torch.zeros(2, 3, 9, 9),)

def ran():
    open(__file__ + '.ran', 'w')
    return make()
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    file = tmp_path / "net.py"
    file.write_text(NET)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth"


def saved(file: Path, name: str = "squeezenet1_1", **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, **options).eval()
    torch.save(model.state_dict(), file)
    return model


def same(source: Source, model: nn.Module) -> bool:
    mine, theirs = source.model.state_dict(), model.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


class TestReference:
    def test_alone_it_has_random_weights_and_says_so(self) -> None:
        source = open_model("torchvision:resnet18")
        assert source.name == "resnet18"
        assert source.arch == "torchvision:resnet18"
        assert not source.model.training
        assert source.inputs.tensors[0].shape == (2, 3, 224, 224)
        assert "random weights" in source.notes[0]
        assert "input 2,3,224,224: the default of torchvision:resnet18" in source.notes

    def test_a_file_with_inputs_of_its_own(self, net: Path) -> None:
        source = open_model(f"{net}:with_inputs")
        assert source.inputs.tensors[0].shape == (2, 3, 9, 9)
        assert source.name == "with_inputs"

    def test_a_file_without(self, net: Path) -> None:
        source = open_model(f"{net}:make")
        assert source.inputs.tensors[0].shape == (2, 3, 32, 32)
        assert "the first conv" in source.notes[-1]

    def test_the_users_input_wins(self, net: Path) -> None:
        source = open_model(f"{net}:with_inputs", input="1,3,20,20")
        assert source.inputs.tensors[0].shape == (1, 3, 20, 20)

    def test_with_another_arch(self) -> None:
        with pytest.raises(BadInput, match="an architecture already"):
            open_model("torchvision:resnet18", arch="torchvision:resnet34")

    def test_a_bare_name(self) -> None:
        with pytest.raises(BadInput, match="no such file") as caught:
            open_model("resnet18")
        assert "torchvision:resnet18" in str(caught.value.hint)

    def test_what_does_not_exist(self) -> None:
        with pytest.raises(BadInput, match="resnet19") as caught:
            open_model("torchvision:resnet19")
        assert "resnet18" in str(caught.value.hint)
        with pytest.raises(BadInput, match="not an architecture reference") as caught:
            open_model("torchvison:resnet18")
        assert "did you mean torchvision:resnet18" in str(caught.value.hint)

    def test_inputs_that_cannot_be_read_or_guessed(self, net: Path) -> None:
        with pytest.raises(BadInput, match="not a list of sizes"):
            open_model("torchvision:resnet18", input="3x224x224")
        net.write_text("import torch\nclass N(torch.nn.Module):\n    pass\n")
        with pytest.raises(BadInput, match="no input could be guessed") as caught:
            open_model(f"{net}:N")
        assert "--input 1,3,224,224" in str(caught.value.hint)


class TestState:
    def test_with_its_arch(self, file: Path) -> None:
        model = saved(file)
        source = open_model(file, arch="torchvision:squeezenet1_1")
        assert same(source, model)
        assert source.name == "model"
        assert not any("random" in note for note in source.notes)

    @pytest.mark.parametrize("own", ["torchvision:squeezenet1_1", "squeezenet1_1"])
    def test_an_arch_inside_the_file(self, own: str, file: Path) -> None:
        model = saved(file)
        torch.save({"arch": own, "state_dict": model.state_dict()}, file)
        source = open_model(file)
        assert same(source, model)
        assert "architecture torchvision:squeezenet1_1, as model.pth says" in source.notes

    def test_a_factory_inside_the_file_is_never_run(self, net: Path, file: Path) -> None:
        ref = f"{net}:ran"
        torch.save({"arch": ref, "state_dict": {"0.weight": torch.zeros(1)}}, file)
        with pytest.raises(BadInput, match="not run by itself") as caught:
            open_model(file)
        assert f"--arch {ref}" in str(caught.value.hint)
        assert not Path(f"{net}.ran").exists()

    def test_a_factory_of_the_users(self, net: Path, file: Path) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
        torch.save(model.state_dict(), file)
        assert same(open_model(file, arch=f"{net}:make"), model)

    def test_without_arch_the_fits_are_named(self, file: Path) -> None:
        saved(file)
        with pytest.raises(BadInput, match="they fit torchvision:squeezenet1_1") as caught:
            open_model(file)
        assert caught.value.hint == "add --arch torchvision:squeezenet1_1"

    def test_without_arch_and_without_fit(self, file: Path) -> None:
        torch.save({"weight": torch.zeros(3)}, file)
        with pytest.raises(BadInput, match="no torchvision model fits") as caught:
            open_model(file)
        assert "--arch" in str(caught.value.hint)

    def test_that_does_not_fit(self, file: Path) -> None:
        saved(file, "resnet18")
        with pytest.raises(BadInput, match="does not fit torchvision:resnet50") as caught:
            open_model(file, arch="torchvision:resnet50")
        text = caught.value.message
        assert "layer1.0.conv1.weight: [64, 64, 3, 3] in the file, [64, 64, 1, 1]" in text
        assert "missing from the file:\n    layer1.0.conv3.weight" in text
        assert len(text.split("\n")) < 15
        assert caught.value.hint == "they fit torchvision:resnet18: --arch torchvision:resnet18"

    def test_another_number_of_classes(self, file: Path) -> None:
        model = saved(file, num_classes=10)
        source = open_model(file, arch="torchvision:squeezenet1_1")
        assert same(source, model)
        assert any("num_classes=10" in note for note in source.notes)

    @pytest.mark.parametrize("aux", [True, False])
    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_with_and_without_auxiliary_heads(self, name: str, aux: bool, file: Path) -> None:
        model = saved(file, name, aux_logits=aux, init_weights=False, num_classes=7)
        assert same(open_model(file, arch=f"torchvision:{name}", input="2,3,96,96"), model)

    def test_timm_with_another_number_of_classes(self, file: Path) -> None:
        timm = pytest.importorskip("timm")
        model = timm.create_model("test_resnet", num_classes=3)
        torch.save(model.state_dict(), file)
        assert same(open_model(file, arch="timm:test_resnet"), model)

    @pytest.mark.parametrize("prefix", ["model.", "net.", "module.model."])
    def test_a_prefix_that_is_in_the_way(self, prefix: str, file: Path) -> None:
        model = saved(file)
        torch.save({prefix + k: v for k, v in model.state_dict().items()}, file)
        assert same(open_model(file, arch="torchvision:squeezenet1_1"), model)
        with pytest.raises(BadInput, match="they fit torchvision:squeezenet1_1"):
            open_model(file)

    def test_the_spelling_of_published_densenets(self, file: Path) -> None:
        model = saved(file, "densenet121")
        old = {
            k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v
            for k, v in model.state_dict().items()
        }
        torch.save(old, file)
        assert same(open_model(file, arch="torchvision:densenet121"), model)

    def test_without_counters_of_batches(self, file: Path) -> None:
        model = saved(file, "shufflenet_v2_x0_5")
        state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
        torch.save(state, file)
        assert same(open_model(file, arch="torchvision:shufflenet_v2_x0_5"), model)

    def test_a_format_version_that_the_file_lacks(self, file: Path) -> None:
        model = saved(file, "mnasnet0_5")  # refuses a state dict without its version
        torch.save(dict(model.state_dict()), file)
        assert same(open_model(file, arch="torchvision:mnasnet0_5"), model)

    def test_safetensors(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        file = tmp_path / "model.safetensors"
        model = torchvision.models.squeezenet1_1()
        save_file(model.state_dict(), file)
        assert same(open_model(file, arch="torchvision:squeezenet1_1"), model)

    def test_half_precision_is_said(self, file: Path) -> None:
        torch.save(saved(file).half().state_dict(), file)
        source = open_model(file, arch="torchvision:squeezenet1_1")
        assert "float16 weights, computed in float32 from here on" in source.notes
        assert next(source.model.parameters()).dtype == torch.float32

    def test_weights_that_are_no_numbers_are_said(self, file: Path) -> None:
        model = saved(file)
        with torch.no_grad():
            model.get_parameter("classifier.1.bias")[0] = float("nan")
            model.get_parameter("features.0.weight")[0] = float("inf")
        torch.save(model.state_dict(), file)
        notes = open_model(file, arch="torchvision:squeezenet1_1").notes
        assert "NaN or infinite weights in features.0.weight, classifier.1.bias" in notes

    @pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
    @pytest.mark.parametrize(
        ("file", "factory"),
        [
            ("resnet20-12fca82f.th", "resnet20"),
            ("resnet56-4bfd9763.th", "resnet56"),
        ],
    )
    def test_published_checkpoints_with_the_users_file(self, file: str, factory: str) -> None:
        arch = f"{Path(__file__).parents[1] / 'models' / 'cifar_resnet.py'}:{factory}"
        source = open_model(SHARED / file, arch=arch)
        assert source.inputs.tensors[0].shape == (2, 3, 32, 32)
        assert source.model(source.inputs.tensors[0]).shape == (2, 10)
        assert any("weights taken from 'state_dict'" in note for note in source.notes)

    @pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoints are not here")
    def test_a_published_checkpoint_fits_no_torchvision_model(self) -> None:
        with pytest.raises(BadInput, match="no torchvision model fits"):
            open_model(SHARED / "resnet20-12fca82f.th")


class TestOtherFiles:
    def test_a_pickled_module(self, file: Path) -> None:
        model = torchvision.models.squeezenet1_1().train()
        torch.save(model, file)
        source = open_model(file, arch="torchvision:squeezenet1_1")
        assert same(source, model)
        assert not source.model.training
        assert source.arch is None
        assert any("--arch not needed" in note for note in source.notes)
        assert source.inputs.tensors[0].shape == (2, 3, 224, 224)

    def test_a_program(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        x = torch.randn(2, 3, 8, 8)
        torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
        source = open_model(tmp_path / "m.pt2")
        assert source.program is not None
        assert torch.equal(source.inputs.tensors[0], x)
        assert source.model.state_dict().keys() == model.state_dict().keys()
        assert not source.model.training
        torch.testing.assert_close(source.model(x), model(x))

    def test_a_slim_file_brings_its_inputs(self, file: Path) -> None:
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 2)
        ).eval()
        result = surgeon.shrink(net, torch.zeros(2, 3, 9, 9), 0.5, check=False, measure=False)
        surgeon.save(result, file)
        source = open_model(file)
        x = torch.randn(2, 3, 9, 9)
        assert torch.allclose(source.model(x), result.model(x), atol=1e-6)
        assert source.inputs.tensors[0].shape == (2, 3, 9, 9)
        assert source.payload is not None
        assert source.notes == ("input 2,3,9,9: recorded with the model",)

    def test_onnx(self, tmp_path: Path) -> None:
        file = tmp_path / "m.onnx"
        file.write_bytes(b"\x08\x07")
        with pytest.raises(BadInput, match="can be measured, not cut"):
            open_model(file)


def test_masks_of_torchs_prune_go_into_the_weights(tmp_path: Path):
    model = torchvision.models.squeezenet1_1().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.utils.prune.ln_structured(module, "weight", 0.25, n=2, dim=0)
    torch.save(model.state_dict(), tmp_path / "masked.pth")
    source = open_model(tmp_path / "masked.pth", arch="torchvision:squeezenet1_1")
    assert any("masks of torch.nn.utils.prune multiplied into 26" in n for n in source.notes)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(source.model(x), model(x))
