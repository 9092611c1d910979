"""The oracle's masks against the ops: a masked call gives what the same op gives on sliced operands.

Every sample of every rule, with each thing that its rule lets go masked as a plan would mask it.
"""

from typing import Any

import numpy as np
import pytest
import torch
from probe import (
    Coupled,
    Sample,
    coupled,
    cut_call,
    emptied,
    fresh,
    goes,
    outputs_of,
    removals,
    same,
    target,
    touches,
)
from samples import SAMPLES
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from surgeon.graph import Value
from surgeon.masking import Masks
from surgeon.rules import RULES, lookup

torch.set_num_threads(1)
SETS = 3


def masked(c: Coupled, gone: np.ndarray) -> tuple[Masks, list[Tensor]]:
    """The op run on operands masked as a plan would mask them."""
    masks = Masks()
    leaves, spec = tree_flatten((c.sample.args, c.sample.kwargs))
    values = iter(c.inputs)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            leaves[i] = fresh(leaf)
            masks.begin(leaves[i], kept_dims(c, gone, next(values)))
    args, kwargs = tree_unflatten(leaves, spec)
    with torch.no_grad():
        return masks, outputs_of(masks.run(target(c.sample.op), args, kwargs))


def kept_dims(c: Coupled, gone: np.ndarray, value: Value) -> dict[int, list[int]]:
    away = {d: goes(c, gone, value, d) for d in range(len(value.shape))}
    return {d: np.flatnonzero(~a).tolist() for d, a in away.items() if a.any()}


def planned(c: Coupled, gone: np.ndarray, value: Value) -> Tensor:
    """The mask that coupling says an output has."""
    mask = torch.zeros(value.shape, dtype=torch.bool)
    for d in range(len(value.shape)):
        mask.index_fill_(d, torch.from_numpy(np.flatnonzero(goes(c, gone, value, d))), True)
    return mask


def cases(c: Coupled) -> list[np.ndarray]:
    """Each thing of what comes in that may go by itself, and random sets of them. (What an op makes of
    its own, a plan does not name.)"""
    singles = [gone for gone in removals(c) if touches(c, gone, c.inputs)]
    rng = np.random.default_rng(1)
    some = [[one for one in singles if rng.random() < 0.4] for _ in range(SETS)]
    both = [np.any(s, axis=0) for s in some if s]
    return [gone for gone in (*singles, *both) if not emptied(c, gone)]


RULED = [s for s in SAMPLES if s.needs == "cpu" and lookup(s.op) is not None]


@pytest.mark.parametrize("sample", RULED, ids=str)
def test_masked_is_sliced(sample: Sample):
    c = coupled(sample)
    for gone in cases(c):
        masks, outs = masked(c, gone)
        pairs = list(zip(c.outputs, outs, strict=True))[: sample.outputs]
        for value, out in pairs:
            assert torch.equal(masks.of(out), planned(c, gone, value)), f"{sample}: its mask"
        if sample.resizes and sample.values:
            compare(c, gone, masks, [out for _, out in pairs])


def compare(c: Coupled, gone: np.ndarray, masks: Masks, outs: list[Tensor]) -> None:
    (op, args), kwargs = cut_call(c, gone)
    with torch.no_grad():
        small: list[Any] = outputs_of(target(op)(*args, **kwargs))
    for out, want in zip(outs, small, strict=False):
        found = out.masked_select(~masks.of(out)).reshape(want.shape)
        near = 1e-10 if want.dtype == torch.float64 else 1e-5
        alike = same(found, want)
        if want.is_floating_point():
            alike |= torch.isclose(found, want, near, near)
        assert bool(alike.all()), f"{c.sample}: other numbers"


def test_every_rule_is_tried():
    assert (
        not set(RULES) - {s.packet for s in RULED} - {s.packet for s in SAMPLES if s.needs != "cpu"}
    )
