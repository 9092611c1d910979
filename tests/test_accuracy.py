"""benchmarks/accuracy.py: the rewritten network is the same function, the peer is cut to what is asked, rows are told apart."""

import torch
from torch import nn

from benchmarks import peer_cifar
from benchmarks.accuracy import jobs
from benchmarks.accuracy_table import table
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
