"""Masks are small while they may be, and a write through any view reaches all that share the storage."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from surgeon.broadcast import narrow, thin
from surgeon.masking import Masks
from surgeon.masks import Held

torch.set_num_threads(1)
aten = torch.ops.aten
VIEWS: dict[str, Callable[[Masks, Tensor], Tensor]] = {
    "slice": lambda m, x: m.run(aten.slice.Tensor, (x, 1, 2, 5), {}),
    "alias": lambda m, x: m.run(
        aten.slice.Tensor, (m.run(aten.alias.default, (x,), {}), 1, 2, 5), {}
    ),
    "transposed": lambda m, x: m.run(
        aten.transpose.int, (m.run(aten.narrow.default, (turned(m, x), 0, 2, 3), {}), 0, 1), {}
    ),
    "strided": lambda m, x: m.run(aten.as_strided.default, (x, [4, 3], [6, 1], 2), {}),
}


def turned(m: Masks, x: Tensor) -> Tensor:
    return m.run(aten.t.default, (x,), {})


def masked(m: Masks, *shape: int, dim: int, gone: list[int]) -> Tensor:
    """A tensor of ones without some positions of a dimension."""
    x = torch.ones(shape)
    m.begin(x, {dim: [i for i in range(shape[dim]) if i not in gone]})
    return x


@pytest.mark.parametrize("view", VIEWS)
def test_a_write_through_a_view_is_seen_by_all(view: str):
    masks = Masks()
    base = masks.run(aten.zeros.default, ([4, 6],), {})
    other = masks.run(aten.unsqueeze.default, (base, 0), {})
    part = VIEWS[view](masks, base)
    masks.run(aten.copy_.default, (part, masked(masks, 4, 3, dim=1, gone=[1])), {})
    want = torch.zeros(4, 6, dtype=torch.bool)
    want[:, 3] = True
    later = masks.run(aten.permute.default, (base, [1, 0]), {})
    assert torch.equal(masks.of(base), want)
    assert torch.equal(masks.of(other), want[None])
    assert torch.equal(masks.of(later), want.t())
    assert torch.equal(
        base, torch.ones(4, 6).where(torch.arange(6).ge(2) & torch.arange(6).lt(5), 0) * ~want
    )


def test_a_copy_has_a_mask_of_its_own():
    masks = Masks()
    base = masks.run(aten.zeros.default, ([4, 6],), {})
    copy = masks.run(aten.clone.default, (base,), {})
    masks.run(aten.add_.Tensor, (base, masked(masks, 4, 6, dim=0, gone=[2])), {})
    assert masks.of(base)[2].all() and not masks.of(copy).any()


def test_a_transpose_in_place_keeps_what_is_gone():
    masks = Masks()
    x = masked(masks, 3, 3, dim=0, gone=[1])
    masks.run(aten.t_.default, (x,), {})
    assert masks.of(x).tolist() == [[False, True, False]] * 3


def test_masks_hold_no_more_than_they_say():
    masks = Masks()
    x = masked(masks, 8, 16, 4, 4, dim=1, gone=[3])
    for func, args in (
        (aten.relu.default, (x,)),
        (aten.cat.default, ([x, x], 1)),
        (aten.view.default, (x, [8, 16, 16])),
        (aten.permute.default, (x, [0, 2, 3, 1])),
        (aten.constant_pad_nd.default, (x, [0, 0, 0, 0, 2, 2])),
    ):
        assert thin(masks.of(masks.run(func, args, {}))).numel() <= 32, func


def test_narrow_finds_what_a_mask_does_not_change_along():
    full = torch.zeros(3, 5, 7, dtype=torch.bool)
    full[:, 2] = True
    assert narrow(full).shape == (1, 5, 1)
    assert torch.equal(narrow(full).expand(full.shape), full)
    full[1, 2, 3] = False
    assert narrow(full).shape == (3, 5, 7)


def test_masks_go_with_their_tensors():
    held = Held()
    for _ in range(3):
        x = torch.ones(4)
        held.meet((x,))
        held.lay(x)
        held.write(x, torch.tensor([True, False, False, True]))
    assert len(held._small) == 1
    assert len(held._laid) <= 3
