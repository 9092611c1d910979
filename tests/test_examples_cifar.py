"""The worked examples on pictures run, in a tiny setting, and what they say of the networks is so."""

import sys
from pathlib import Path

import pytest
import torch
from greys import grey_zip

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.examples import resnet_cifar, two_conv
from models.cifar_resnet import resnet
from surgeon.measure import Budget

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


def test_resnet_cifar(pictures: Path) -> None:
    lab = resnet_cifar.Lab(pictures, samples=20, epochs=1)
    torch.manual_seed(0)
    short = Budget(warmup_s=0.01, min_runs=3, min_s=0.01, max_s=0.1)
    rows = resnet_cifar.run(resnet(8).eval(), lab, (0.5,), short)
    assert [row[1] for row in rows] == ["dense", "one cut", "iterative", "sparsify"]
    for row in rows[1:]:
        assert 0.35 < float(row[2]) < 0.52 and "[" in row[7]
    assert rows[3][6] < rows[0][6]  # zeros pack well
    assert all(row[6] < 0.6 * rows[0][6] for row in rows[1:3])
