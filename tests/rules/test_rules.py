"""Every rule against the real op; every op with a rule has a sample; wrong rules are caught."""

import pytest
import torch
from probe import Sample, check, coupled, resized
from samples import SAMPLES

from surgeon.cut.resize import RESIZE
from surgeon.rules import RULES, lookup

torch.set_num_threads(1)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_op_does_what_its_rule_says(sample: Sample):
    if sample.needs == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"{sample.op} runs on CUDA only")
    check(sample)


def test_every_rule_has_a_sample():
    assert not sorted(set(RULES) - {s.packet for s in SAMPLES}), "ops without a sample call"


def test_every_resized_op_has_a_sample_that_it_resizes():
    shown = {s.op.rsplit(".", 1)[0] for s in SAMPLES if s.needs == "cpu" and resized(coupled(s))}
    assert not sorted(set(RESIZE) - shown), "ops in RESIZE that no sample resizes"


def test_every_rule_is_of_an_op_that_exists():
    parted = [op.split(".") for op in RULES]
    assert {space for space, _ in parted} == {"aten", "torchvision", "transformers"}
    assert not [op for space, op in parted if not hasattr(getattr(torch.ops, space), op)]


def test_what_takes_another_tensors_memory_has_no_rule():
    assert lookup("aten.set_.default")
    overloads = set(torch.ops.aten.set_.overloads()) - {"default"}
    assert overloads and not any(lookup(f"aten.set_.{o}") for o in overloads)
