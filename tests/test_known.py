"""Expensive results are computed once, and are what they would be if they were computed again."""

import torch
import torch.nn.functional as F
from torch import Tensor

from surgeon.known import Known

X = torch.randn(2, 64, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
W = torch.randn(32, 64, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(known: Known, x: Tensor = X, weight: Tensor = W, stride: int = 1) -> Tensor:
    with known:
        return F.conv2d(x, weight, stride=stride)


def test_a_result_is_known_when_all_that_went_in_is_the_same():
    known = Known()
    first = run(known)
    assert known.met == 0
    assert torch.equal(run(known, X.clone(), W.clone()), first)
    assert known.met == 1


def test_what_is_written_to_a_result_is_not_known():
    known = Known()
    want = F.conv2d(X, W)
    run(known).zero_()
    run(known).zero_()
    assert torch.equal(run(known), want)


def test_anything_else_is_computed():
    known = Known()
    run(known)
    x, weight = X.clone(), W.clone()
    x[1, 63, 19, 19] += 1e-15  # as little as can be
    weight[31, 63, 2, 2] += 1e-15
    for args in ((x, W), (X, weight), (X.float(), W.float()), (X.mT, W), (X, W.mT), (X, W, 2)):
        assert torch.equal(run(known, *args), F.conv2d(*args[:2], stride=(*args, 1)[2]))
    channels_last = X.contiguous(memory_format=torch.channels_last)
    assert run(known, channels_last).stride() == F.conv2d(channels_last, W).stride()
    assert known.met == 0


def test_cheap_ops_are_computed_each_time():
    known = Known()
    with known:
        for _ in range(2):
            assert torch.equal(X + X, 2 * X)
            F.conv2d(X, torch.ones(8, 64, 1, 1, dtype=torch.float64))
    assert known.met == 0


def test_keywords_of_the_same_numbers_are_told_apart():
    known = Known()
    a, b = (torch.randn(600, 600, dtype=torch.float64) for _ in range(2))
    with known:
        first = torch.addmm(a, a, b, beta=2)
        assert torch.equal(torch.addmm(a, a, b, beta=2), first) and known.met == 1
        other = torch.addmm(a, a, b, alpha=2)
    assert torch.equal(other, torch.addmm(a, a, b, alpha=2)) and known.met == 1


def test_a_few_rows_are_computed_rather_than_their_weights_hashed():
    known = Known()
    x, weight = torch.randn(2, 512), torch.randn(512, 512)
    with known:
        for _ in range(2):
            F.linear(x, weight)
    assert known.met == 0


def test_a_sparse_operand_is_computed_with():
    eye, x = torch.eye(600).to_sparse(), torch.randn(600, 600)
    with Known() as known:
        assert torch.equal(eye @ x, x) and torch.equal(eye @ x, x)
    assert known.met == 0
