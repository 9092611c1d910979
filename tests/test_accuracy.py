"""benchmarks/accuracy.py: the rewritten network is the same function, the peer is cut to what is asked, rows are told apart."""

from pathlib import Path

import torch
from greys import grey_zip
from torch import nn

import surgeon
from benchmarks import cifar, peer_cifar
from benchmarks.accuracy import jobs
from benchmarks.accuracy_table import table
from benchmarks.train_cifar import EXAMPLE, Kept, tuned
from models.cifar_resnet import resnet


def small():
    torch.manual_seed(0)
    model = resnet(8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def test_the_shortcut_as_a_convolution_is_the_same_function():
    model, x = small().double(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    other = peer_cifar.convolved(model).double()
    assert torch.allclose(model(x), other(x), rtol=1e-12, atol=1e-12)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in other.modules()) == 2


def test_the_peer_is_cut_to_the_share_that_is_asked():
    model = peer_cifar.convolved(small())
    images = torch.randn(4, 3, 32, 32)

    def count(net):
        return float(sum(p.numel() for p in net.parameters()))

    for criterion in ("L2", "Taylor"):
        slim = peer_cifar.cut_to(model, (criterion, "global"), 0.6, images, count)
        assert abs(count(slim) / count(model) - 0.6) < 0.05
        assert slim(images).shape == (4, 10)


def test_recalibrated_batch_norms_have_the_moments_of_the_images():
    model, images = small(), 3 + torch.randn(8, 3, 32, 32)
    found = peer_cifar.recalibrated(model, images)
    seen = model.conv1(images)
    assert torch.allclose(found.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(found.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-3)
    assert not torch.allclose(model.bn1.running_mean, found.bn1.running_mean)


def test_rows_have_names_of_their_own_and_aims_are_held_against_the_dense_network():
    names = [job.name for job in jobs()]
    assert len(set(names)) == len(names)
    dense = {"row": "resnet20 dense", "depth": 20, "limit": None, "method": "dense", "top1": 90.0}
    cut = {"depth": 20, "limit": 0.7, "flops": 0.69, "seconds": 1.0}
    good = {**cut, "row": "a", "method": "surgeon with data", "top1": 87.0}
    bad = {**cut, "row": "b", "method": "torch-pruning L2 local", "top1": 86.9}
    text = table([bad, good, dense]).splitlines()
    assert [("met" in t, "missed" in t) for t in text[2:]] == [(0, 0), (1, 0), (0, 1)]


def test_cut_networks_are_kept_and_tuned_alike(tmp_path: Path):
    kept, x = Kept(tmp_path / "networks"), torch.randn(3, 3, 32, 32)
    done = surgeon.shrink(small(), EXAMPLE, ratio=0.5, measure=False)
    theirs = peer_cifar.cut_to(peer_cifar.convolved(small()), ("L2", "local"), 0.5, x, lambda m: 1.0)  # fmt: skip
    for name, cut, model in (("ours a", done, done.model), ("theirs b", theirs, theirs)):
        assert not kept.has(name)
        kept.save(name, cut)
        assert kept.has(name)
        again = kept.load(name, resnet(8))
        assert torch.equal(again(x), model(x))
        pictures, state = grey_zip(tmp_path / "pictures.zip"), kept.path(name, ".state.pt")
        first, seconds = tuned(again, 1, state, pictures)
        assert seconds > 0 and not torch.equal(first(x), model(x))
        resumed, _ = tuned(kept.load(name, resnet(8)), 1, state, pictures)  # all epochs are done
        assert torch.equal(resumed(x), first(x))
    images, labels = cifar.test_images(pictures)
    assert images.is_contiguous() and images.shape == (40, 3, 32, 32) and len(set(labels.tolist())) == 10  # fmt: skip


def test_tuned_rows_come_last_and_no_aim_is_held_against_them():
    dense = {"row": "resnet56 dense", "depth": 56, "limit": None, "method": "dense", "top1": 90.0}
    cut = {"depth": 56, "limit": 0.476, "flops": 0.47, "seconds": 1.0}
    trained = {**cut, "row": "a", "method": "surgeon with data tuned 2 epochs", "top1": 89.9, "epochs": 2}  # fmt: skip
    plain = {**cut, "row": "b", "method": "torch-pruning L2 local", "top1": 20.0}
    text = table([trained, plain, dense]).splitlines()[3:]
    assert ["tuned" in line for line in text] == [False, True]
    assert "missed" in text[0] and "met" not in text[1] and "missed" not in text[1]
    assert {job.epochs for job in jobs((2, 20))} == {0, 2, 20}
