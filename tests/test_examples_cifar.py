"""The worked examples on pictures run, in a tiny setting, and what they say of the networks is so."""

import sys
from pathlib import Path

import pytest
import torch
from greys import grey_zip

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.examples import two_conv

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grey_zip(tmp_path_factory.mktemp("pictures") / "pictures.zip")


def test_two_conv(pictures: Path) -> None:
    rows = two_conv.run(pictures, samples=40, epochs=1, tuned=1)
    assert [row[0] for row in rows] == ["dense", "cut", "cut, tuned", "cut, compensated", "cut, compensated, tuned"]  # fmt: skip
    dense, cut = rows[:2]
    assert dense[1] == "32-64-120" and cut[2] < dense[2] and cut[4] < dense[4]
    assert {row[5] for row in rows[1:]} == {"program"}  # the view's sizes stand in the code
