"""Windows of tokens read by strides (Longformer): channels and heads are whole, and strides follow a cut."""

import pytest
import torch
from torch import Tensor, nn

import surgeon
from surgeon.graph import Value
from surgeon.rules.strided import new_strides, whole_dims

torch.set_num_threads(1)


@pytest.mark.parametrize("turned", [False, True])
def test_strides_follow_what_is_cut(turned: bool):
    """Tokens first in memory, or second: the channels that stay are read in the same windows."""
    full = torch.randn(12, 3, 5).transpose(0, 1) if turned else torch.randn(3, 12, 5)
    less = full[..., [0, 2, 3]]
    less = less.transpose(0, 1).contiguous().transpose(0, 1) if turned else less.contiguous()
    token = full.stride(1)
    shape, stride = [3, 3, 6, 5], [full.stride(0), 3 * token, token, 1]
    x = Value(0, tuple(full.shape), "f32", stride=full.stride())
    new = new_strides(x, shape, stride, less.shape)
    assert whole_dims(x.shape, x.stride, shape, stride) == {0: 0, 3: 2}
    windows = full.as_strided(shape, stride)
    assert torch.equal(less.as_strided([3, 3, 6, 3], new), windows[..., [0, 2, 3]])


def test_a_whole_dimension_is_at_the_same_place_everywhere():
    """Against the op itself, on the numbers of the elements."""
    generator, sure = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        given = torch.randint(2, 5, (3,), generator=generator).tolist()
        x = torch.arange(given[0] * given[1] * given[2]).view(given)
        shape = torch.randint(1, 5, (3,), generator=generator).tolist()
        stride = [x.stride(int(i)) for i in torch.randint(0, 3, (3,), generator=generator)]
        found = whole_dims(given, x.stride(), shape, stride)
        if not found:
            continue
        sure += 1
        seen = x.as_strided(shape, stride)
        for j, i in found.items():
            along = torch.arange(shape[j]).view([-1 if k == j else 1 for k in range(3)])
            assert torch.equal(seen // x.stride(i) % given[i], along.expand(shape))
    assert sure > 20


def test_what_strides_tear_apart_is_read_by_position():
    assert whole_dims([3, 12], [12, 1], [4, 8], [9, 1]) == {}
    assert whole_dims([3, 12], [24, 2], [3, 12], [24, 2]) == {}  # a part of another tensor


class Windows(nn.Module):
    """Each token beside its neighbours: overlapping windows, whose sizes the forward reads off its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.key, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.key(self.embed(x).relu())
        n, t, c = x.shape
        windows = x.as_strided(
            (n, t // 2 - 1, 4, c), (x.stride(0), 2 * x.stride(1), x.stride(1), 1)
        )
        return self.head(windows.softmax(2).sum((1, 2)))


def test_channels_that_windows_leave_whole_are_cut():
    torch.manual_seed(0)
    result = surgeon.shrink(Windows().eval(), torch.randn(2, 12, 5), 0.5, measure=False)
    assert {g.name: g.kept for g in result.plan.groups} == {"embed": 4, "key": 3}
    assert result.check is not None and result.check.error < 1e-9
