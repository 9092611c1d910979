"""Reading data: every form gives the same numbers for the same pictures, and bad input is named."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from surgeon import BadInput, Inputs
from surgeon.data import DataOptions, open_data
from surgeon.data.look import IMAGENET, look_of

LIKE = torch.zeros(1, 3, 8, 8)
ALL = DataOptions(samples=None, batch=4)
MEAN, STD = (torch.tensor(x).view(1, 3, 1, 1) for x in IMAGENET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five pictures of 8x8, all different."""
    root = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    for i, pixels in enumerate(numbers):
        place = root / "train" / ("cat", "dog")[i // 5]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    shutil.copytree(root / "train", root / "test")
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    return root


def whole(samples) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All inputs and labels, in order of the chosen examples' numbers."""
    batches = list(samples)
    order = torch.tensor(samples.indices).argsort()
    x = torch.cat([b.inputs.tensors[0] for b in batches])[order]
    labels = [b.labels for b in batches if b.labels is not None]
    return x, torch.cat(labels)[order] if labels else None


def zipped(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
        archive.writestr("__MACOSX/train/cat/._0.png", b"not a picture")
        archive.writestr("train/cat/._0.png", b"not a picture")
    return to


def test_a_folder_is_read_as_torchvision_does(folder):
    samples = open_data(folder / "train", LIKE, ALL)
    make = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    theirs = ImageFolder(folder / "train", v2.Compose([make, v2.Normalize(*IMAGENET)]))
    want = torch.stack([x for x, _ in theirs])
    x, y = whole(samples)
    assert torch.equal(x, want)
    assert y is not None
    assert y.tolist() == theirs.targets
    assert (samples.classes, samples.count, samples.labelled) == (("cat", "dog"), 10, True)
    assert any("0.485" in note and "8x8" in note for note in samples.notes)


def test_zip_folder_and_what_is_inside(folder, tmp_path):
    path = zipped(folder, tmp_path / "all.zip")
    want, labels = whole(open_data(folder / "train", LIKE, ALL))
    for ref in (f"{path}:train", f"{path}/train", str(path), str(folder)):
        x, y = whole(open_data(ref, LIKE, ALL))
        assert torch.equal(x, want), ref
        assert torch.equal(y, labels), ref
    # a split that is not the training one is used only where it is named
    assert any("train" in note for note in open_data(path, LIKE, ALL).notes)
    flat = open_data(f"{path}:train/dog", LIKE, ALL)
    assert not flat.labelled
    assert torch.equal(whole(flat)[0], want[5:])


def test_forms_of_arrays(folder, tmp_path):
    want, labels = whole(open_data(folder / "train", LIKE, ALL))
    pixels = np.stack(
        [np.asarray(Image.open(p)) for p in sorted((folder / "train").rglob("*.png"))]
    )
    np.save(tmp_path / "pixels.npy", pixels)
    np.savez(tmp_path / "pixels.npz", images=pixels.transpose(0, 3, 1, 2), labels=labels)
    torch.save((want, labels), tmp_path / "ready.pt")
    torch.save({"x": want, "y": labels}, tmp_path / "named.pt")
    for name, labelled in {"pixels.npy": 0, "pixels.npz": 1, "ready.pt": 1, "named.pt": 1}.items():
        samples = open_data(tmp_path / name, LIKE, ALL)
        x, y = whole(samples)
        assert torch.equal(x, want), name
        assert samples.labelled == bool(labelled), name
        assert y is None or torch.equal(y, labels), name


def test_arrays_of_several_named_inputs(tmp_path):
    ids, mask = torch.arange(20).view(5, 4), torch.ones(5, 4, dtype=torch.int64)
    like = {"input_ids": ids[:1], "attention_mask": mask[:1]}
    torch.save(
        {"attention_mask": mask, "labels": torch.rand(5), "input_ids": ids}, tmp_path / "t.pt"
    )
    samples = open_data(tmp_path / "t.pt", like, DataOptions(batch=5))
    (batch,) = samples
    assert set(batch.inputs.kwargs) == {"input_ids", "attention_mask"}
    assert sorted(batch.inputs.kwargs["input_ids"][:, 0].tolist()) == [0, 4, 8, 12, 16]
    assert samples.labelled


def test_samples_are_the_same_each_time_and_by_seed(folder):
    some = open_data(folder / "train", LIKE, DataOptions(samples=6, batch=4, seed=3))
    first, again = list(some), list(some)
    assert [b.count for b in first] == [4, 2]
    assert all(
        torch.equal(a.inputs.args[0], b.inputs.args[0]) for a, b in zip(first, again, strict=True)
    )
    first[0].inputs.args[0].zero_()
    assert next(iter(some)).inputs.args[0].any()
    assert some.indices == open_data(folder / "train", LIKE, DataOptions(6, 1, 3)).indices
    assert some.indices != open_data(folder / "train", LIKE, DataOptions(6, 1, 4)).indices
    assert len(set(some.indices)) == 6


def test_pictures_are_made_the_size_and_channels_of_the_example(folder):
    samples = open_data(folder / "train", torch.zeros(2, 1, 4, 4), ALL)
    x, _ = whole(samples)
    assert x.shape == (10, 1, 4, 4)
    assert any("averaged to grey" in note for note in samples.notes)
    wide, _ = whole(open_data(folder / "train", torch.zeros(2, 3, 4, 16), ALL))
    assert wide.shape == (10, 3, 4, 16)
    half = open_data(folder / "train", torch.zeros(2, 3, 4, 4, dtype=torch.float16), ALL)
    assert whole(half)[0].dtype is torch.float16


def test_normalised_as_the_library_says():
    assert look_of(DataOptions(arch="timm:vit_tiny_patch16_224")).mean == (0.5, 0.5, 0.5)
    resnet = look_of(DataOptions(arch="torchvision:resnet18"))
    assert (resnet.mean, round(224 * resnet.scale)) == (IMAGENET[0], 256)
    assert "ImageNet" in look_of(DataOptions(arch="net.py:make")).whose
    given = look_of(DataOptions(arch="timm:vit_tiny_patch16_224", mean=(0.1,), std=(0.2,)))
    assert given.channels(3).mean == (0.1, 0.1, 0.1)


class Ragged(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> list[int]:
        return [i] * (i + 1)


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"ids": ids, "labels": torch.tensor([row[0] for row in rows])}


def test_loaders_of_every_kind():
    x, y = torch.randn(10, 5), torch.arange(10)
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    given = DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True)
    for form in (given, TensorDataset(x, y), batches, iter(batches)):
        got, labels = whole(open_data(form, torch.zeros(1, 5), ALL))
        assert torch.equal(got, x)
        assert torch.equal(labels, y)
    unlabelled = open_data([x[:6], x[6:]], torch.zeros(1, 5), ALL)
    assert not unlabelled.labelled
    two = open_data([(x, x + 1, y)], (torch.zeros(1, 5), torch.zeros(1, 5)), ALL)
    assert two.labelled
    assert all(torch.equal(b.inputs.args[0] + 1, b.inputs.args[1]) for b in two)


def test_a_loaders_own_padding_is_used():
    like = {"ids": torch.zeros(1, 3, dtype=torch.int64)}
    samples = open_data(DataLoader(Ragged(), collate_fn=padded), like, DataOptions(batch=6))
    (batch,) = samples
    assert batch.inputs.kwargs["ids"].shape == (6, 6)
    assert torch.equal(batch.labels, torch.tensor(samples.indices))


def test_a_function_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\ndef loader():\n    return [torch.ones(4, 5)]\ndef bad():\n    return 3\n"
    )
    assert open_data(f"{file}:loader", torch.zeros(1, 5), ALL).count == 4
    with pytest.raises(BadInput, match="gives int, not batches"):
        open_data(f"{file}:bad", torch.zeros(1, 5), ALL)
    with pytest.raises(BadInput, match="no function 'other'"):
        open_data(f"{file}:other", torch.zeros(1, 5), ALL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([torch.zeros(4, 6, 2)], r"a tensor \[4, 6, 2\]"),
        ([("a", "b")], "tuple of 2"),
        ([torch.zeros(4, 5, dtype=torch.int64)], "int64"),
        ([(torch.zeros(4, 5), torch.zeros(3))], "4 examples and 3 labels"),
        ([], "no batch"),
        ([torch.zeros(4, 5), (torch.zeros(4, 5), torch.zeros(4))], "some batches only"),
        (3.5, "float, not batches"),
    ],
)
def test_nonsense_of_a_loader_is_told(given, said):
    with pytest.raises(BadInput, match=said):
        open_data(given, torch.zeros(1, 5), ALL)


def test_bad_files_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no pictures"):
        open_data(tmp_path / "empty", LIKE)
    with pytest.raises(BadInput, match="no such data"):
        open_data(tmp_path / "absent", LIKE)
    broken = tmp_path / "broken"
    shutil.copytree(folder / "train", broken)
    (broken / "dog" / "9.png").write_bytes((broken / "dog" / "8.png").read_bytes()[:40])
    with pytest.raises(BadInput, match=r"dog/9\.png cannot be read"):
        list(open_data(broken, LIKE, ALL))
    os.rename(broken, tmp_path / "val")
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(BadInput, match="cannot be read as a zip"):
        open_data(tmp_path / "bad.zip", LIKE)
    two = tmp_path / "two"
    for name in ("a", "b"):
        shutil.copytree(folder / "train", two / name)
    with pytest.raises(BadInput, match="folders of folders of pictures: a, b"):
        open_data(two, LIKE)
    with pytest.raises(BadInput, match="pictures are one input"):
        open_data(folder / "train", torch.zeros(1, 16))


def test_bad_arrays_are_told(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="cannot be read as arrays"):
        open_data(tmp_path / "objects.npy", LIKE)
    np.save(tmp_path / "small.npy", np.zeros((4, 3, 7, 8), dtype=np.float32))
    with pytest.raises(BadInput, match=r"\[3, 7, 8\].*\[3, 8, 8\]"):
        open_data(tmp_path / "small.npy", LIKE)
    np.savez(tmp_path / "many.npz", x_train=np.zeros((4, 3)), x_test=np.zeros((4, 3)))
    with pytest.raises(BadInput, match="holds x_train, x_test"):
        open_data(tmp_path / "many.npz", torch.zeros(1, 3))
    torch.save(Inputs((LIKE,)), tmp_path / "class.pt")
    with pytest.raises(BadInput, match="cannot be read as arrays"):
        open_data(tmp_path / "class.pt", LIKE)
    with pytest.raises(BadInput, match="samples is 0"):
        DataOptions(samples=0)


CIFAR = Path(__file__).parents[1] / "../shared/data/cifar10-jpeg.zip"


@pytest.mark.skipif(not CIFAR.exists(), reason="../shared/data/cifar10-jpeg.zip is not here")
def test_the_real_pictures():
    samples = open_data(f"{CIFAR}:train", torch.zeros(1, 3, 32, 32))
    x, y = whole(samples)
    assert (samples.count, samples.examples.count, len(samples.classes)) == (128, 50000, 10)
    assert x.shape == (128, 3, 32, 32)
    assert y is not None
    assert y.unique().numel() == 10


def test_only_pictures_load_torchvision():
    """It takes long, and every command would wait for it."""
    code = "import sys, surgeon; surgeon.shrink; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
