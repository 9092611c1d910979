"""Every number of a report against its formula, computed directly."""

import pytest
import torch
from nets import draw

from surgeon.metrics.accuracy import Accuracy, answer_of, are_classes
from surgeon.metrics.reconstruction import OutputError


def test_output_error_in_batches_is_that_of_the_whole() -> None:
    want, got = draw(50, 7, seed=1).double() * 3 + 1000, draw(50, 7, seed=2).double() + 1000
    error = OutputError()
    for at in range(0, 50, 16):
        error.add([want[at : at + 16]], [got[at : at + 16]])
    spread = (want - want.mean(0)).square().mean()
    assert error.value == pytest.approx(float((want - got).square().mean() / spread), rel=1e-6)


def test_output_error_is_the_mean_over_outputs_and_nought_for_equal_ones() -> None:
    a, b = draw(8, 3), draw(8, 2, 2, seed=1)
    error = OutputError()
    error.add([a, b], [a, b.mean(0).expand_as(b)])
    assert error.value == pytest.approx(0.5, rel=1e-5)  # 0 and 1: a constant is as bad as can be


def test_one_example_is_compared_with_its_own_size() -> None:
    error = OutputError()
    error.add([torch.full((1, 4), 2.0)], [torch.full((1, 4), 1.0)])
    assert error.value == pytest.approx(0.25)


def test_outputs_of_several_sizes() -> None:
    parts = [(draw(4, 5), draw(4, 5, seed=1)), (draw(4, 9, seed=2), draw(4, 9, seed=3))]
    error = OutputError()
    for want, got in parts:
        error.add([want], [got])
    apart = sum(float((a - b).double().square().sum()) for a, b in parts)
    spread = sum(float((a - a.mean(0)).double().square().sum()) for a, _ in parts)
    assert error.value == pytest.approx(apart / spread, rel=1e-5)


def test_accuracy_is_counted_over_batches_and_positions() -> None:
    answer, labels = draw(40, 9, 3), torch.randint(9, (40, 3), generator=torch.manual_seed(0))
    found = Accuracy()
    for at in range(0, 40, 16):
        found.add(answer[at : at + 16], labels[at : at + 16])
    right = [float((answer.argmax(1) == labels).float().mean())]
    right.append(float((answer.argsort(1)[:, -5:] == labels[:, None]).any(1).float().mean()))
    assert [found.top(1), found.top(5)] == pytest.approx(right)
    assert set(found.as_dict()) == {"top1", "top5"}


def test_what_labels_are() -> None:
    answer = draw(4, 3)
    assert are_classes(answer, torch.tensor([0, 1, 2, 2]))
    for wrong in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1]), torch.rand(4), None):
        assert not are_classes(answer, wrong)
    few = Accuracy()
    few.add(answer, torch.tensor([0, 1, 2, 2]))
    assert set(few.as_dict()) == {"top1"}  # of three classes, five are all
    assert answer_of({"hidden": torch.ones(2, dtype=torch.int64), "out": answer}) is answer
