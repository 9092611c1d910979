"""References become modules, and what cannot is refused with the nearest names."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from surgeon.errors import BadInput
from surgeon.files.arch import build
from surgeon.files.fit import which_fit
from surgeon.files.inputs import guess_input, parse_inputs

torch.set_num_threads(1)


def shapes(name: str, **options: object) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options).state_dict()


class TestTorchvision:
    def test_a_classifier_comes_with_its_default_input(self) -> None:
        built = build("torchvision:resnet18")
        assert isinstance(built.model, torchvision.models.ResNet)
        assert built.default_shape == (2, 3, 224, 224)
        assert "torchvision" in built.note

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("inception_v3", (2, 3, 299, 299)),
            ("googlenet", (2, 3, 224, 224)),
            ("r3d_18", (2, 3, 16, 112, 112)),
            ("lraspp_mobilenet_v3_large", (2, 3, 520, 520)),
        ],
    )
    def test_default_inputs_of_other_kinds(self, name: str, shape: tuple[int, ...]) -> None:
        assert build(f"torchvision:{name}").default_shape == shape

    def test_random_weights_are_the_same_every_time(self) -> None:
        """And what the caller draws is not disturbed."""
        torch.manual_seed(3)
        first, drawn = build("torchvision:squeezenet1_1").model, torch.rand(1)
        second = build("torchvision:squeezenet1_1").model
        torch.manual_seed(3)
        assert torch.equal(torch.rand(1), drawn)
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_options_reach_the_factory(self) -> None:
        built = build("torchvision:resnet18", {"num_classes": 7})
        assert built.model.get_submodule("fc").out_features == 7

    def test_an_unknown_name_brings_the_nearest(self) -> None:
        with pytest.raises(BadInput, match="no model 'resnet19'") as caught:
            build("torchvision:resnet19")
        assert "resnet18" in str(caught.value.hint)

    def test_an_unknown_option_shows_the_factorys_error(self) -> None:
        with pytest.raises(BadInput, match="unexpected keyword argument 'width'"):
            build("torchvision:resnet18", {"width": 3})


class TestTimm:
    def test_a_timm_model(self) -> None:
        pytest.importorskip("timm")
        built = build("timm:convnext_atto", {"num_classes": 5})
        assert built.default_shape == (2, 3, 224, 224)
        assert build("timm:test_resnet").default_shape == (2, 3, 160, 160)

    def test_an_unknown_name_brings_the_nearest(self) -> None:
        pytest.importorskip("timm")
        with pytest.raises(BadInput, match="timm has no model") as caught:
            build("timm:convnext_atom")
        assert "convnext_atto" in str(caught.value.hint)

    def test_without_timm_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(BadInput, match="timm, which is not installed") as caught:
            build("timm:convnext_atto")
        assert caught.value.hint == "pip install 'model-surgeon[timm]'"


class TestHuggingFace:
    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"no config\.json"):
            build(f"hf:{tmp_path}")

    def test_without_transformers_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(BadInput) as caught:
            build(f"hf:{tmp_path}")
        assert caught.value.hint == "pip install 'model-surgeon[hf]'"

    def test_a_local_folder(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        config.save_pretrained(tmp_path)
        built = build(f"hf:{tmp_path}")
        assert isinstance(built.model, nn.Module)
        assert built.inputs is not None
        assert built.inputs.tensors[0].dtype == torch.int64
        assert not built.trained
        built.model.save_pretrained(tmp_path)
        assert build(f"hf:{tmp_path}").trained


class TestFile:
    def test_a_factory_with_and_without_inputs(self, tmp_path: Path) -> None:
        file = tmp_path / "net.py"
        file.write_text(
            "import torch\n"
            "def plain(): return torch.nn.Linear(3, 4)\n"
            "def both(): return torch.nn.Linear(3, 4), torch.zeros(5, 3)\n"
        )
        assert build(f"{file}:plain").inputs is None
        inputs = build(f"{file}:both").inputs
        assert inputs is not None
        assert inputs.tensors[0].shape == (5, 3)

    def test_it_may_import_its_neighbours(self, tmp_path: Path) -> None:
        (tmp_path / "neighbour_of_net.py").write_text("WIDTH = 6\n")
        file = tmp_path / "net.py"
        file.write_text(
            "import torch, neighbour_of_net\n"
            "make = lambda: torch.nn.Linear(3, neighbour_of_net.WIDTH)\n"
        )
        assert build(f"{file}:make").model.out_features == 6
        assert str(tmp_path) not in sys.path

    def test_a_missing_factory_brings_the_nearest(self, tmp_path: Path) -> None:
        file = tmp_path / "net.py"
        file.write_text("def resnet20(): pass\n")
        with pytest.raises(BadInput, match="no factory 'resnet21'") as caught:
            build(f"{file}:resnet21")
        assert "resnet20" in str(caught.value.hint)

    def test_its_own_errors_are_shown(self, tmp_path: Path) -> None:
        file = tmp_path / "net.py"
        file.write_text("def make(): raise RuntimeError('no data folder')\n")
        with pytest.raises(BadInput, match="RuntimeError: no data folder"):
            build(f"{file}:make")
        file.write_text("import nothing_like_this\n")
        with pytest.raises(BadInput, match="ModuleNotFoundError"):
            build(f"{file}:make")

    def test_what_is_no_module_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "net.py"
        file.write_text("def make(): return 3\n")
        with pytest.raises(BadInput, match=r"returned int, not an nn\.Module"):
            build(f"{file}:make")

    def test_no_such_file_and_no_factory_named(self) -> None:
        with pytest.raises(BadInput, match="no such file"):
            build("nowhere/net.py:make")
        with pytest.raises(BadInput, match="no factory in it"):
            build("nowhere/net.py")


@pytest.mark.parametrize("ref", ["resnet18", "keras:resnet18", "torchvision:", ""])
def test_what_is_no_reference_brings_the_forms(ref: str) -> None:
    with pytest.raises(BadInput, match="not an architecture reference") as caught:
        build(ref)
    assert "torchvision:resnet50" in str(caught.value.hint)


class TestGuess:
    @pytest.mark.parametrize(
        ("model", "shape", "why"),
        [
            (nn.Sequential(nn.Linear(12, 3)), (2, 12), "linear"),
            (nn.Conv1d(4, 8, 3), (2, 4, 128), "the first conv"),
            (nn.Conv2d(1, 8, 3), (2, 1, 32, 32), "3x3 stride 1, 1 channels"),
            (nn.Conv2d(3, 8, 7, 2), (2, 3, 224, 224), "7x7 stride 2"),
            (
                nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(7)),
                (2, 3, 224, 224),
                "3x3 stride 1",
            ),
            (nn.Sequential(nn.Embedding(10, 4)), (2, 16), "embedding"),
        ],
    )
    def test_the_first_layer_decides(
        self, model: nn.Module, shape: tuple[int, ...], why: str
    ) -> None:
        guess = guess_input(model)
        assert guess is not None
        assert guess.inputs.tensors[0].shape == shape
        assert why in guess.why

    def test_a_view_that_swallows_any_size_does_not_mislead(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(1, 4, 5)
                self.fc = nn.Linear(4 * 24 * 24, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fc(self.conv(x).view(-1, 4 * 24 * 24))

        guess = guess_input(Net())
        assert guess is not None
        assert guess.inputs.tensors[0].shape == (2, 1, 28, 28)

    def test_a_list_of_images(self) -> None:
        class Found(nn.Module):
            """A detector: a dict for each image, of as many boxes as there are."""

            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
                maps = [self.conv(image[None])[0] for image in images]
                return [{"boxes": m.flatten(1)[:, :7].T} for m in maps]

        guess = guess_input(Found())
        assert guess is not None
        (pictures,) = guess.inputs.args
        assert isinstance(pictures, list)
        assert [tuple(p.shape) for p in pictures] == [(3, 32, 32)] * 2
        assert "a list of images" in guess.why

    def test_what_a_forward_keeps_stays_with_the_copy_that_ran(self) -> None:
        class Keeps(nn.Module):
            """An anchor generator's cache; its forward asks for a number, so that it does not run on meta."""

            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)
                self.kept: torch.Tensor | None = None

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if self.kept is None:
                    self.kept = x.new_ones(4, 1, 1)
                return self.conv(x) * self.kept * float(self.kept.sum())

        model = Keeps().eval()
        guess = guess_input(model)
        assert guess is not None
        assert model.kept is None

    def test_two_images(self) -> None:
        class Flow(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, before: torch.Tensor, after: torch.Tensor) -> list[torch.Tensor]:
                return [self.conv(after) - self.conv(before)]

        guess = guess_input(Flow())
        assert guess is not None
        assert [tuple(x.shape) for x in guess.inputs.args] == [(2, 3, 32, 32)] * 2
        assert not torch.equal(*guess.inputs.args)

    def test_nothing_fits(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(3, 3)

            def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                return self.fc(x + y)

        assert guess_input(Two()) is None
        assert guess_input(nn.ReLU()) is None

    def test_the_model_is_left_alone(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        guess_input(model)
        assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())


class TestParse:
    def test_several_with_types(self) -> None:
        image, tokens = parse_inputs("1,3,8,8; 2,5:int64").args
        assert image.shape == (1, 3, 8, 8)
        assert image.dtype == torch.float32
        assert tokens.shape == (2, 5)
        assert tokens.dtype == torch.int64
        assert torch.equal(image, parse_inputs("1,3,8,8").args[0])

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("1,3,x", "not a list of sizes"),
            ("", "not a list of sizes"),
            ("1,,3", "not a list of sizes"),
            ("1,3;", "not a list of sizes"),
            ("0,3,224,224", "a size is at least 1"),
            ("1,-3", "a size is at least 1"),
            ("1,3:float33", "no such type 'float33'"),
        ],
    )
    def test_what_cannot_be_read(self, text: str, says: str) -> None:
        with pytest.raises(BadInput, match=says) as caught:
            parse_inputs(text)
        assert caught.value.hint


class TestWhichFit:
    @pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_16", "squeezenet1_1"])
    def test_exact(self, name: str) -> None:
        assert which_fit(shapes(name))[0] == f"torchvision:{name}"

    def test_regnet_whose_widths_are_computed_with_tensors(self) -> None:
        state = torchvision.models.regnet_x_400mf().state_dict()
        assert which_fit(state) == ["torchvision:regnet_x_400mf"]

    def test_another_number_of_classes(self) -> None:
        fits = which_fit(shapes("resnet50", num_classes=10))
        assert fits == ["torchvision:resnet50 (but for fc.weight, fc.bias: 10 classes)"]

    def test_without_auxiliary_heads(self) -> None:
        state = shapes("googlenet", aux_logits=False, init_weights=True)
        assert which_fit(state) == ["torchvision:googlenet"]

    def test_nothing(self) -> None:
        assert which_fit({"weight": torch.zeros(3)}) == []
        assert which_fit({}) == []
