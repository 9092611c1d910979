"""The worked examples on pictures run, in a tiny setting, and what they say of the networks is so."""

import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.examples import two_conv

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip as the benchmark's: ten classes, a grey of its own each."""
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (f"{split}/{c}/{i}.jpg" for split in ("train", "test") for c in range(10) for i in range(4)):  # fmt: skip
            packed = io.BytesIO()
            grey = np.full((32, 32, 3), 25 * int(name.split("/")[1]), np.uint8)
            Image.fromarray(grey).save(packed, "JPEG")
            archive.writestr(name, packed.getvalue())
    return path


def test_two_conv(pictures: Path) -> None:
    rows = two_conv.run(pictures, samples=40, epochs=1, tuned=1)
    assert [row[0] for row in rows] == ["dense", "cut", "cut, tuned", "cut, compensated", "cut, compensated, tuned"]  # fmt: skip
    dense, cut = rows[:2]
    assert dense[1] == "32-64-120" and cut[2] < dense[2] and cut[4] < dense[4]
    assert {row[5] for row in rows[1:]} == {"program"}  # the view's sizes stand in the code
